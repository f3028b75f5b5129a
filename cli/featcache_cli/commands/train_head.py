"""`featcache train-head`: an MLP head on a cache."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.config import RECIPES, REGULARISATIONS, SELECTIONS, ExtractSpec, HeadSpec, TrainSpec
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
from featcache_cli.tables import show_facts

if TYPE_CHECKING:
    from featcache.heads.run_files import HeadRun
    from featcache.training.train_head import TrainResult
    from featcache.training.trainer import TrainProgress


def train_head(
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
            help=f"Regularisation: {', '.join(REGULARISATIONS)}.",
            autocompletion=complete.one_of(*REGULARISATIONS),
        ),
    ] = HeadSpec.reg,
    l1: Annotated[
        float | None, typer.Option(help="Factor of the L1 penalty.  [l1, l1l2: 1e-5]")
    ] = HeadSpec.l1,
    weight_decay: Annotated[
        float | None, typer.Option(help="Adam's L2 factor.  [l2, l1l2: 1e-4]")
    ] = HeadSpec.weight_decay,
    dropout: Annotated[
        str | None,
        typer.Option(help="Probability after each hidden layer.  [dropout: 0.5,0.3]"),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="Widths of the hidden layers; '' is a linear probe.  [default: the recipe's]"
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of Adam.  [default: the recipe's]")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows in one step.")] = TrainSpec.batch_size,
    max_epochs: Annotated[
        int | None, typer.Option(help="Epochs at most.  [default: the recipe's]")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many epochs without a better val_loss; 0 is never.  "
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
        int, typer.Option(help="Seeds initial weights, order of batches and dropout.")
    ] = TrainSpec.seed,
    order_seed: Annotated[
        int | None, typer.Option(help="Seeds the order of batches apart.  [default: the seed]")
    ] = TrainSpec.order_seed,
    seeds: Annotated[int, typer.Option(help="Train this many heads: seed, seed+1, ...")] = 1,
    max_memory: MaxMemoryOption = None,
    device: DeviceOption = ExtractSpec.device,
    resume: Annotated[
        bool,
        typer.Option(help="Go on with a stopped run, or start it again; a finished one is reused."),
    ] = True,
    cache_dir: CacheDirOption = ExtractSpec.cache_dir,
    runs_dir: RunsDirOption = "runs",
    json: JsonOption = False,
) -> Any:  # TrainResult: Typer would look the name up, and import torch
    """Train an MLP head on a cache.

    Loss, optimiser and split are the notebook's. So are the defaults on the notebook's own data and
    backbones; elsewhere they are general ones (--recipe). The same command gives the same bits, and
    answers at once when the run is there.
    """
    from featcache import train_head as run

    display = ProgressDisplay()
    result = run(
        cache,
        dataset=dataset,
        backbone=backbone,
        recipe=recipe,
        reg=reg,
        l1=l1,
        weight_decay=weight_decay,
        dropout=None if dropout is None else numbers("--dropout", dropout),
        hidden=None if hidden is None else whole_numbers("--hidden", hidden),
        lr=lr,
        batch_size=batch_size,
        max_epochs=max_epochs,
        patience=patience,
        min_delta=min_delta,
        val_fraction=val_fraction,
        split_seed=split_seed,
        select=select,
        seed=seed,
        order_seed=order_seed,
        seeds=seeds,
        max_memory=None if max_memory is None else n_bytes("--max-memory", max_memory),
        device=device,
        resume=resume,
        cache_dir=cache_dir,
        runs_dir=runs_dir,
        on_progress=lambda progress: show_training(display, progress),
        on_note=note,
    )
    reset_progress()
    if json:
        show_json(result)
    else:
        _show(result)
    return result


def show_training(display: ProgressDisplay, progress: TrainProgress) -> None:
    """Show how far a run is."""
    figures = progress.figures
    detail = f"{duration(progress.left_s)} left"
    if figures:
        detail += f", train_loss {figures['train_loss']:.4f} val_loss {figures['val_loss']:.4f}"
    stage = f"seed {progress.seed} epoch {progress.epoch + 1}/{progress.max_epochs}, batch"
    display.show(stage, progress.n_done, progress.n_total, detail)


def _show(result: TrainResult) -> None:
    for run in result.runs:
        show_facts(_facts(run) | ({"seed": run.seed} if len(result.runs) > 1 else {}))
    if len(result.runs) > 1:
        _show_spread(result)
    run = result.runs[-1]
    split = " --split val" if run.test_acc is None else ""  # there is no split "test"
    note(f"next: featcache eval {shlex.quote(str(run.path))}{split}")


def _facts(run: HeadRun) -> dict[str, object]:
    early = ", stopped early" if run.stopped_early else ""
    facts: dict[str, object] = {
        run.outcome: run.path,
        "epochs": f"{run.n_epochs} (best: {run.best_epoch}{early}) in {duration(run.seconds)}",
        "val": f"val_acc {run.val_acc:.4f}  val_loss {run.val_loss:.4f}",
    }
    if run.test_acc is not None:
        facts["test"] = f"test_acc {run.test_acc:.4f}  test_loss {run.test_loss:.4f}"
    return facts


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
