"""`featcache sweep`: a grid of heads in one pass over the features."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from featcache.config import (
    CONSTANTS,
    RECIPES,
    REGULARISATIONS,
    SELECTIONS,
    ExtractSpec,
    HeadSpec,
    TrainSpec,
)
from featcache_cli import completion as complete
from featcache_cli.console import ProgressDisplay, duration, note, reset_progress, show_json
from featcache_cli.options import (
    CacheDirOption,
    DeviceOption,
    JsonOption,
    MaxMemoryOption,
    RecipeOption,
    RunsDirOption,
    n_bytes,
    numbers,
    whole_numbers,
)
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache.training.sweeps.bank_trainer import SweepProgress
    from featcache.training.sweeps.table import SweepResult


def sweep(
    cache: Annotated[
        str | None,
        typer.Option(
            help="A cache file, or part of its name as `cache ls` shows it.",
            autocompletion=complete.caches,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help=f"Dataset of the cache.  [default: {ExtractSpec.dataset}]",
            autocompletion=complete.datasets,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help=f"Backbone of the cache.  [default: {ExtractSpec.backbone}]",
            autocompletion=complete.backbones,
        ),
    ] = None,
    recipe: RecipeOption = RECIPES[0],
    reg: Annotated[
        str,
        typer.Option(
            help=f"Regularisations, commas between: {', '.join(REGULARISATIONS)}.",
            autocompletion=complete.one_of(*REGULARISATIONS),
        ),
    ] = HeadSpec.reg,
    l1: Annotated[
        str | None, typer.Option(help=f"Factors of the L1 penalty.  [default: {CONSTANTS['l1']}]")
    ] = None,
    weight_decay: Annotated[
        str | None,
        typer.Option(help=f"Adam's L2 factors.  [default: {CONSTANTS['weight_decay']}]"),
    ] = None,
    dropout: Annotated[
        list[str] | None,
        typer.Option(help="Probabilities after the hidden layers; give it again for others."),
    ] = None,
    hidden: Annotated[
        list[str] | None,
        typer.Option(
            help="Widths of the hidden layers; give it again for others.  [default: the recipe's]"
        ),
    ] = None,
    lr: Annotated[
        str | None, typer.Option(help="Learning rates of Adam.  [default: the recipe's]")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows in one step.")] = TrainSpec.batch_size,
    max_epochs: Annotated[
        int | None, typer.Option(help="Epochs at most.  [default: the recipe's]")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="A head stops after so many epochs without a better val_loss; 0 is never.  "
            "[default: the recipe's]"
        ),
    ] = None,
    min_delta: Annotated[
        float, typer.Option(help="By how much val_loss must fall to count as better.")
    ] = TrainSpec.min_delta,
    val_fraction: Annotated[
        float | None,
        typer.Option(help="Share of the training rows for validation.  [0.2, or the split val]"),
    ] = TrainSpec.val_fraction,
    split_seed: Annotated[
        int, typer.Option(help="Seeds the choice of those rows.")
    ] = TrainSpec.split_seed,
    select: Annotated[
        str | None,
        typer.Option(
            help=f"Keep the weights of this epoch: {', '.join(SELECTIONS)}.  "
            "[default: the recipe's]",
            autocompletion=complete.one_of(*SELECTIONS),
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="The first seed, and the seed of the order of batches.")
    ] = TrainSpec.seed,
    seeds: Annotated[int, typer.Option(help="Heads per setting: seed, seed+1, ...")] = 1,
    max_memory: MaxMemoryOption = None,
    device: DeviceOption = ExtractSpec.device,
    cache_dir: CacheDirOption = ExtractSpec.cache_dir,
    runs_dir: RunsDirOption = "runs",
    json: JsonOption = False,
) -> None:
    """Train a grid of heads in one pass over the features.

    All heads see the same batches; each is a run like any other. The table is by validation loss,
    and the best setting alone is tested.
    """
    from featcache import sweep as run

    display = ProgressDisplay()
    result = run(
        cache,
        dataset=dataset,
        backbone=backbone,
        recipe=recipe,
        reg=tuple(part.strip() for part in reg.split(",")),
        l1=None if l1 is None else numbers("--l1", l1),
        weight_decay=None if weight_decay is None else numbers("--weight-decay", weight_decay),
        dropout=None if not dropout else [numbers("--dropout", text) for text in dropout],
        hidden=[whole_numbers("--hidden", text) for text in hidden] if hidden else None,
        lr=None if lr is None else numbers("--lr", lr),
        batch_size=batch_size,
        max_epochs=max_epochs,
        patience=patience,
        min_delta=min_delta,
        val_fraction=val_fraction,
        split_seed=split_seed,
        select=select,
        seed=seed,
        seeds=seeds,
        max_memory=None if max_memory is None else n_bytes("--max-memory", max_memory),
        device=device,
        cache_dir=cache_dir,
        runs_dir=runs_dir,
        on_progress=lambda progress: _show_progress(display, progress),
        on_note=note,
    )
    reset_progress()
    if json:
        show_json(result)
    else:
        _show(result)


def _show_progress(display: ProgressDisplay, progress: SweepProgress) -> None:
    detail = f"{duration(progress.left_s)} left, {progress.n_finished} of {progress.n_heads} done"
    if progress.epoch:
        detail += f", best val_loss {progress.best_val_loss:.4f}"
    stage = f"epoch {progress.epoch + 1}/{progress.max_epochs}, step"
    display.show(stage, progress.n_done, progress.n_total, detail)


def _show(result: SweepResult) -> None:
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
    show_facts(facts)
    split = " --split val" if result.test_acc is None else ""  # there is no split "test"
    note(f"next: featcache eval {shlex.quote(str(result.settings[0].runs[0]))}{split}")
    note("one head alone: train-head with the options of its row, its --seed, and --order-seed")
