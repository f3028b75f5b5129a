"""`featcache parity`: cached against end to end."""

from __future__ import annotations

from typing import Annotated

import typer

from featcache.specs import BN_MODES, PREPROCESS_KINDS, REGULARISATIONS, ExtractSpec, HeadSpec
from featcache.specs import TrainSpec as Train
from featcache_cli.commands.extract import show_extraction
from featcache_cli.console import ProgressDisplay, note, reset_progress, show_json, show_table
from featcache_cli.options import (
    CacheDirOption,
    DataDirOption,
    ImageSizeOption,
    JsonOption,
    whole_numbers,
)


def parity(
    dataset: Annotated[
        str, typer.Option(help="cifar10, cifar100, digits, folder:PATH or torchvision:NAME.")
    ] = ExtractSpec.dataset,
    backbone: Annotated[
        str, typer.Option(help="A torchvision trunk with its classifier right behind.")
    ] = ExtractSpec.backbone,
    weights: Annotated[
        str, typer.Option(help="DEFAULT, a torchvision weights name, a file, or random.")
    ] = ExtractSpec.weights,
    bn: Annotated[
        str, typer.Option(help=f"BatchNorm statistics: {', '.join(BN_MODES)}.")
    ] = ExtractSpec.bn,
    preprocess: Annotated[
        str, typer.Option(help=f"Transform: {', '.join(PREPROCESS_KINDS)}.")
    ] = ExtractSpec.preprocess,
    image_size: ImageSizeOption = ExtractSpec.image_size,
    limit: Annotated[int, typer.Option(help="Images of each split, evenly spaced.")] = 512,
    levels: Annotated[
        str, typer.Option(help="1 features, 2 losses and predictions, 3 results over seeds.")
    ] = "1,2",
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 2,
    reg: Annotated[
        str, typer.Option(help=f"Regularisation of the head: {', '.join(REGULARISATIONS)}.")
    ] = HeadSpec.reg,
    hidden: Annotated[str, typer.Option(help="Widths of its hidden layers.")] = "50,20",
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Rows in one step.")] = Train.batch_size,
    seed: Annotated[
        int, typer.Option(help="Seeds initial weights, order of batches and dropout.")
    ] = Train.seed,
    seeds: Annotated[int, typer.Option(help="Trainings of level 3.")] = 5,
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
        dataset,
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
        cache_dir=cache_dir,
        data_dir=data_dir,
        on_progress=lambda progress: show_extraction(display, progress),
        on_note=note,
    )
    reset_progress()
    checks = report.checks
    if json:
        show_json({**vars(report), "checks": [{**vars(c), "holds": c.holds} for c in checks]})
    else:
        show_table(
            ["level", "what", "#figure", "tolerance", "", "detail"],
            (
                (
                    c.level,
                    c.what,
                    f"{c.figure:.6g}",
                    f"{'>=' if c.at_least else '<='} {c.tolerance:.6g}",
                    "holds" if c.holds else "FALLS SHORT",
                    c.detail,
                )
                for c in checks
            ),
        )
    if not report.holds:
        raise typer.Exit(1)
