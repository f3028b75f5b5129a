"""`featcache sweep`: a grid of heads in one pass over the features."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.config import DevicesSpec, ExtractSpec, HeadSpec, RunSpec, SolverSpec, TrainSpec
from featcache_cli.commands.report import ReportOption, report_beside
from featcache_cli.commands.train_head import show_solving
from featcache_cli.console import (
    ProgressDisplay,
    duration,
    note,
    reset_progress,
    show_json,
    tell_remarks,
)
from featcache_cli.options import (
    JsonOption,
    in_a_grid,
    left_to_the_recipe,
    of_the_cache,
    options_of,
    takes,
)
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache.training.solvers.solver_run import SolverProgress
    from featcache.training.sweeps.bank_trainer import SweepProgress
    from featcache.training.sweeps.table import SweepResult


_SEEDS = {
    "seed": "The first seed of each setting, and the seed of the order of batches.",
    "seeds": "Train this many heads per setting, with the seeds seed, seed+1, ...",
}


@takes(
    options_of(RunSpec, "cache"),
    of_the_cache(),
    options_of(RunSpec, "recipe", group="Grid"),
    [
        in_a_grid(option) if option.name == "features" else option
        for option in options_of(SolverSpec)
    ],
    [
        in_a_grid(option)
        for option in left_to_the_recipe(*options_of(HeadSpec), *options_of(TrainSpec, "lr"))
    ],
    left_to_the_recipe(*options_of(TrainSpec, without=("lr", "seed", "order_seed"))),
    options_of(TrainSpec, "seed", help=_SEEDS, group="Grid"),
    options_of(RunSpec, "seeds", help=_SEEDS, group="Grid"),
    options_of(RunSpec, "max_memory"),
    options_of(ExtractSpec, "device"),
    options_of(DevicesSpec),
    options_of(ExtractSpec, "cache_dir"),
    options_of(RunSpec, "runs_dir"),
)
def sweep(*, report: ReportOption = False, json: JsonOption = False, **options: Any) -> None:
    """Train a grid of heads in one pass over the features.

    All heads see the same batches. Each becomes a run like any other. The table is sorted by
    validation loss, and only the best setting is tested.
    """
    from featcache import sweep as run

    display = ProgressDisplay()
    result = run(
        **options,
        on_progress=lambda progress: _show_any(display, progress),
        on_note=note,
    )
    reset_progress()
    page = _page_of(result, options) if report else None
    if json:
        show_json({**vars(result), "report": page} if report else result)
    else:
        _show(result, page)


def _page_of(result: SweepResult, options: dict[str, Any]) -> Path:
    """Write a page in which only the best setting is tested, as the sweep did."""
    best, *others = result.settings
    untested = [run for setting in others for run in setting.runs if run.is_dir()]
    return report_beside(result.markdown, best.runs, options, untested=untested)


def _show_any(display: ProgressDisplay, progress: SweepProgress | SolverProgress) -> None:
    from featcache.training.solvers.solver_run import SolverProgress

    if isinstance(progress, SolverProgress):
        show_solving(display, progress)
    else:
        _show_progress(display, progress)


def _show_progress(display: ProgressDisplay, progress: SweepProgress) -> None:
    detail = f"{duration(progress.left_s)} left, {progress.n_finished} of {progress.n_heads} done"
    if progress.epoch:
        detail += f", best val_loss {progress.best_val_loss:.4f}"
    stage = f"epoch {progress.epoch + 1}/{progress.max_epochs}, step"
    display.show(stage, progress.n_done, progress.n_total, detail)


def _show(result: SweepResult, page: Path | None) -> None:
    from featcache.training.sweeps.table import figures, name_of

    show_table(
        ["#val_loss", "#val_acc", "#epochs", "setting"],
        ((*figures(setting), name_of(setting)) for setting in result.settings),
    )
    facts: dict[str, object] = {"best": name_of(result.settings[0])}
    if result.test_acc is not None and result.test_loss is not None:
        facts["test"] = f"test_acc {result.test_acc}  test_loss {result.test_loss}"
    n_heads = sum(len(setting.runs) for setting in result.settings)
    n_now, seconds = result.n_trained, duration(result.seconds)
    facts["heads"] = f"{n_heads} finished; this call trained {n_now} in {seconds}"
    facts["table"] = result.markdown
    if page is not None:
        facts["report"] = page
    show_facts(facts)
    tell_remarks(result.remarks)
    best = result.settings[0]
    split = ""
    if result.test_acc is None:  # there is no split "test"
        split = " --split train" if best.solver.refit else " --split val"
    note(f"next: featcache eval {shlex.quote(str(best.runs[0]))}{split}")
    if not best.solver.is_mlp:
        return
    note(
        "To train one of these heads alone: featcache train-head <options of its row> --seed S "
        "--order-seed FIRST_SEED"
    )
