"""`featcache train-head`: an MLP head on a cache."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from featcache.config import ExtractSpec, HeadSpec, RunSpec, SolverSpec, TrainSpec
from featcache.core.store_urls import is_in_store
from featcache_cli.commands.cache_there import copy_of
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
    also_in_a_store,
    left_to_the_recipe,
    of_the_cache,
    options_of,
    takes,
)
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache.heads.run_files import HeadRun
    from featcache.training.folds.cross_validation import CrossValidation
    from featcache.training.solvers.solver_run import SolverProgress
    from featcache.training.train_result import TrainResult
    from featcache.training.trainer import TrainProgress


_TOLD = ("converged", "refitted")  # of what is yes or no


@takes(
    also_in_a_store(options_of(RunSpec, "cache")),
    of_the_cache(),
    options_of(RunSpec, "recipe"),
    options_of(SolverSpec),
    left_to_the_recipe(*options_of(HeadSpec), *options_of(TrainSpec)),
    options_of(RunSpec, "seeds", "folds", "max_memory"),
    options_of(ExtractSpec, "device"),
    options_of(RunSpec, "resume"),
    options_of(ExtractSpec, "cache_dir"),
    options_of(RunSpec, "runs_dir"),
)
def train_head(*, json: JsonOption = False, **options: Any) -> Any:
    """Train a head on a cache: an MLP, or another kind with --solver.

    Loss, optimiser and split are the notebook's. So are the defaults on the notebook's own data and
    backbones; elsewhere they are general ones (--recipe). The same command gives the same bits. A
    run that exists is reused.
    """
    from featcache import train_head as run

    display = ProgressDisplay()
    if is_in_store(options["cache"]):
        options["cache"] = copy_of(options["cache"], display)
    result = run(
        **options,
        on_progress=lambda progress: show_progress(display, progress),
        on_note=note,
    )
    reset_progress()
    if json:
        show_json(result)
    else:
        _show(result)
    return result


def show_progress(display: ProgressDisplay, progress: TrainProgress | SolverProgress) -> None:
    """Show how far a run is, of whichever solver."""
    from featcache.training.solvers.solver_run import SolverProgress

    if isinstance(progress, SolverProgress):
        show_solving(display, progress)
    else:
        show_training(display, progress)


def show_solving(display: ProgressDisplay, progress: SolverProgress) -> None:
    """Show how far a solver is, which does not know how many steps are left."""
    step = f"step {progress.n_done}, at most {progress.max_steps}"
    display.show(progress.solver, 0, 0, f"{step}, {progress.n_left} not solved yet")


def show_training(display: ProgressDisplay, progress: TrainProgress) -> None:
    """Show how far a run is."""
    figures = progress.figures
    detail = f"{duration(progress.left_s)} left"
    if figures:
        detail += f", train_loss {figures['train_loss']:.4f} val_loss {figures['val_loss']:.4f}"
    whose = f"fold {progress.fold}" if progress.fold else f"seed {progress.seed}"
    stage = f"{whose} epoch {progress.epoch + 1}/{progress.max_epochs}, step"
    display.show(stage, progress.n_done, progress.n_total, detail)


def _show(result: TrainResult) -> None:
    for run in result.runs:
        show_facts(_facts(run) | ({"seed": run.seed} if len(result.runs) > 1 else {}))
    if len(result.runs) > 1:
        _show_spread(result)
    if result.folds is not None:
        _show_folds(result.folds)
    tell_remarks(result.remarks)
    run = result.runs[-1]
    note(f"next: featcache eval {shlex.quote(str(run.path))}{split_to_evaluate(run)}")


def split_to_evaluate(run: HeadRun) -> str:
    """Write the option that a run without a split "test" needs."""
    if run.test_acc is not None:
        return ""
    can_validate = run.val_acc is not None and not run.found.get("refitted")
    return " --split val" if can_validate else " --split train"


def _facts(run: HeadRun) -> dict[str, object]:
    early = ", stopped early" if run.stopped_early else ""
    facts: dict[str, object] = {run.outcome: run.path}
    if run.history:
        facts["epochs"] = (
            f"{run.n_epochs} (best: {run.best_epoch}{early}) in {duration(run.seconds)}"
        )
    else:
        facts["solver"] = f"{run.solver} in {duration(run.seconds)}: {_found(run)}"
    before = ", before the refit" if run.found.get("refitted") else ""
    facts["val"] = f"val_acc {_figure(run.val_acc)}  val_loss {_figure(run.val_loss)}{before}"
    if run.test_acc is not None:
        facts["test"] = f"test_acc {_figure(run.test_acc)}  test_loss {_figure(run.test_loss)}"
    return facts


def _found(run: HeadRun) -> str:
    """Write what a solver found beside the weights."""
    words = []
    for name, value in run.found.items():
        if isinstance(value, bool):
            words += [name] if value and name in _TOLD else []
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            words.append(f"{name} {'-' if shown is None else shown}")
    return ", ".join(words) or "-"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _show_spread(result: TrainResult) -> None:
    from featcache.evaluation.metrics import Spread

    for name in ("val_acc", "val_loss", "test_acc", "test_loss"):
        figures = [value for run in result.runs if (value := getattr(run, name)) is not None]
        if figures:
            spread = Spread.of(figures)
            show_facts(
                {
                    name: f"mean {spread.mean:.4f}  sd {spread.sd:.4f}  "
                    f"range {spread.low:.4f} to {spread.high:.4f}  n {spread.n}"
                }
            )


def _show_folds(found: CrossValidation) -> None:
    has_epochs, balanced = found.folds[0].n_epochs > 0, found.balanced_acc is not None
    has_setting = any(fold.setting for fold in found.folds)
    columns = ["#fold", "#trained on", "#validated on", "#tested on", *["#epochs"] * has_epochs]
    rows = []
    for k, fold in enumerate(found.folds, start=1):
        row: list[object] = [k, fold.n_train, fold.n_val, fold.n_test]
        row += [fold.n_epochs] * has_epochs
        figures = [fold.acc, fold.loss, *[fold.balanced_acc] * balanced]
        row += ["-" if f is None else f"{f:.4f}" for f in figures]
        rows.append([*row, *[fold.setting or "-"] * has_setting])
    columns += ["#acc", "#loss", *["#balanced_acc"] * balanced, *["setting"] * has_setting]
    show_table(columns, rows)
    means = {"acc": found.acc, "balanced_acc": found.balanced_acc, "loss": found.loss}
    facts: dict[str, object] = {
        f"mean {name}": f"{mean.mean:.4f}  sd {mean.sd:.4f}  95% interval {mean.low:.4f} to "
        f"{mean.high:.4f}"
        for name, mean in means.items()
        if mean is not None
    }
    show_facts({**facts, "folds": found.file})
