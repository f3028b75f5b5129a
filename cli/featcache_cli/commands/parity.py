"""`featcache parity`: cached against end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from featcache.config import BN_MODES, PREPROCESS_KINDS, REGULARISATIONS, ExtractSpec, HeadSpec
from featcache.config import TrainSpec as Train
from featcache_cli import completion as complete
from featcache_cli.commands.extract import show_extraction
from featcache_cli.console import ProgressDisplay, headline, note, reset_progress, show_json
from featcache_cli.options import (
    CacheDirOption,
    DataDirOption,
    JsonOption,
    local_path,
    whole_numbers,
)
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache.notebook.parity import ParityReport


def parity(
    cache: Annotated[
        str | None,
        typer.Option(
            help="A cache that is there; else parity extracts one in fp32.",
            callback=local_path,
            autocompletion=complete.caches,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help=f"Dataset; with --cache: its images.  [default: {ExtractSpec.dataset}]",
            autocompletion=complete.datasets,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help=f"A backbone with its classifier right behind.  [default: {ExtractSpec.backbone}]",
            autocompletion=complete.backbones,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="DEFAULT, a torchvision weights name, a file, or random.",
            callback=local_path,
            autocompletion=complete.weights,
        ),
    ] = ExtractSpec.weights,
    bn: Annotated[
        str | None,
        typer.Option(
            help=f"BatchNorm statistics: {', '.join(BN_MODES)}.  [default: {ExtractSpec.bn}]",
            autocompletion=complete.one_of(*BN_MODES),
        ),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            help=f"Transform: {', '.join(PREPROCESS_KINDS)}.  [default: {ExtractSpec.preprocess}]",
            autocompletion=complete.one_of(*PREPROCESS_KINDS),
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help=f"Side of the backbone's input, in pixels.  [default: {ExtractSpec.image_size}]"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Images of each split that take part.")] = 512,
    levels: Annotated[
        str, typer.Option(help="1 features, 2 losses and predictions, 3 results over seeds.")
    ] = "1,2",
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 2,
    reg: Annotated[
        str,
        typer.Option(
            help=f"Regularisation of the head: {', '.join(REGULARISATIONS)}.",
            autocompletion=complete.one_of(*REGULARISATIONS),
        ),
    ] = HeadSpec.reg,
    hidden: Annotated[str, typer.Option(help="Widths of its hidden layers.")] = ",".join(
        map(str, HeadSpec.hidden)
    ),
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Rows in one step.")] = Train.batch_size,
    seed: Annotated[
        int, typer.Option(help="Seeds initial weights, order of batches and dropout.")
    ] = Train.seed,
    seeds: Annotated[int, typer.Option(help="Trainings of level 3.")] = 5,
    as_notebook: Annotated[
        bool,
        typer.Option(
            "--as-notebook",
            help="Also train with the backbone in training mode, and tell where that lands.",
        ),
    ] = False,
    cache_dir: CacheDirOption = ExtractSpec.cache_dir,
    data_dir: DataDirOption = ExtractSpec.data_dir,
    json: JsonOption = False,
) -> None:
    """Prove that training on a cache is training end to end.

    Both sides start from one head and see the same batches; exit 1 if a figure falls short.
    """
    from featcache import parity as run

    display = ProgressDisplay()
    report = run(
        cache,
        dataset=dataset,
        backbone=backbone,
        weights=weights,
        bn=bn,
        preprocess=preprocess,
        image_size=image_size,
        limit=limit,
        levels=whole_numbers("--levels", levels),
        epochs=epochs,
        reg=reg,
        hidden=whole_numbers("--hidden", hidden),
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        seeds=seeds,
        as_notebook=as_notebook,
        cache_dir=cache_dir,
        data_dir=data_dir,
        on_progress=lambda progress: show_extraction(display, progress),
        on_note=note,
    )
    reset_progress()
    if json:
        checks = [{**vars(check), "holds": check.holds} for check in report.checks]
        show_json({**vars(report), "checks": checks, "holds": report.holds})
    else:
        _show(report)
    if not report.holds:
        raise typer.Exit(1)


def _show(report: ParityReport) -> None:
    show_table(
        ["what", "#figure", "tolerance", ""],
        (
            (
                c.what,
                f"{c.figure:.6g}",
                f"{'>=' if c.at_least else '<='} {c.tolerance:.6g}",
                "holds" if c.holds else "FALLS SHORT",
            )
            for c in report.checks
        ),
    )
    show_facts({c.what: f"level {c.level}: {c.detail}" for c in report.checks})
    n_held = sum(check.holds for check in report.checks)
    note(f"{n_held} of {len(report.checks)} figures hold")
    if report.beside_notebook:
        headline("The backbone in training mode, as in the notebook, beside a cache")
        show_table(
            ["cache", "#test_acc", "#as notebook", "#test_loss", "#as notebook"],
            (
                (
                    comparison.bn,
                    f"{comparison.test_acc:.4f}",
                    f"{comparison.notebook_test_acc:.4f}",
                    f"{comparison.test_loss:.4f}",
                    f"{comparison.notebook_test_loss:.4f}",
                )
                for comparison in report.beside_notebook
            ),
        )
        show_facts(
            {
                comparison.bn: f"{comparison.agreement:.1%} of the predictions are equal; losses "
                f"differ by {comparison.loss_difference:.2g} at most"
                for comparison in report.beside_notebook
            }
        )
