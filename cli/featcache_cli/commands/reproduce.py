"""`featcache reproduce`: the notebook's five systems."""

from __future__ import annotations

from typing import Annotated

import typer

from featcache.config import BN_MODES, ExtractSpec, TrainSpec
from featcache.errors import UsageError
from featcache_cli import completion as complete
from featcache_cli.commands.extract import show_extraction
from featcache_cli.commands.train_head import show_training
from featcache_cli.console import ProgressDisplay, note, reset_progress, show_json
from featcache_cli.options import (
    CacheDirOption,
    DataDirOption,
    DeviceOption,
    ImageSizeOption,
    JsonOption,
    RunsDirOption,
    local_path,
)
from featcache_cli.tables import show_facts, show_table


def reproduce(
    dataset: Annotated[
        str, typer.Option(help="The notebook's, or any other.", autocompletion=complete.datasets)
    ] = "cifar10",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="scratch-mlp, vgg16, vgg16-l1l2, vgg16-dropout or mobilenet-v3; may be repeated.",
            autocompletion=complete.one_of(
                "scratch-mlp", "vgg16", "vgg16-l1l2", "vgg16-dropout", "mobilenet-v3"
            ),
        ),
    ] = None,
    backbone_for: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=BACKBONE",
            help="Let another backbone stand in: vgg16=mobilenet_v2; may be repeated.",
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="Of every backbone: DEFAULT, a file, or random.", callback=local_path),
    ] = ExtractSpec.weights,
    bn: Annotated[
        str,
        typer.Option(
            help=f"BatchNorm statistics: {', '.join(BN_MODES)}.",
            autocompletion=complete.one_of(*BN_MODES),
        ),
    ] = ExtractSpec.bn,
    image_size: ImageSizeOption = ExtractSpec.image_size,
    limit: Annotated[
        int | None, typer.Option(help="Take N images of each split, evenly spaced.")
    ] = ExtractSpec.limit,
    seed: Annotated[int, typer.Option(help="The first seed of the heads.")] = TrainSpec.seed,
    seeds: Annotated[int, typer.Option(help="Heads per system.")] = 1,
    device: DeviceOption = ExtractSpec.device,
    cache_dir: CacheDirOption = ExtractSpec.cache_dir,
    data_dir: DataDirOption = ExtractSpec.data_dir,
    runs_dir: RunsDirOption = "runs",
    json: JsonOption = False,
) -> None:
    """Run the notebook's five systems, and show its figures.

    What is done is not done again: caches and heads that are there are used.
    """
    from featcache import reproduce as run
    from featcache.notebook.reproduce_table import figures

    extraction, training = ProgressDisplay(), ProgressDisplay()
    result = run(
        dataset,
        only=only or (),
        backbone_for=dict(_pair(text) for text in backbone_for or []),
        weights=weights,
        bn=bn,
        image_size=image_size,
        limit=limit,
        seed=seed,
        seeds=seeds,
        device=device,
        cache_dir=cache_dir,
        data_dir=data_dir,
        runs_dir=runs_dir,
        on_progress=lambda progress: show_extraction(extraction, progress),
        on_train_progress=lambda progress: show_training(training, progress),
        on_note=note,
    )
    reset_progress()
    if json:
        show_json(result)
        return
    lines = [(s.name, s.backbone, s.bn, *figures(s)) for s in result.systems]
    notebooks = ["#notebook", "within 95%"]
    show_table(["system", "backbone", "bn", "#test_acc", *notebooks], (line[:6] for line in lines))
    seconds = ["#extraction s", "#training s", "#end to end s >="]
    show_table(
        ["system", "#test_loss", *notebooks, *seconds], ((line[0], *line[6:]) for line in lines)
    )
    show_facts({"table": result.markdown, "json": result.json})


def _pair(text: str) -> tuple[str, str]:
    name, separator, backbone = text.partition("=")
    if not (separator and name and backbone):
        raise UsageError(
            f"--backbone-for is {text!r}, but must be like vgg16=mobilenet_v2: the notebook's "
            f"backbone, and the one that stands in for it."
        )
    return name, backbone
