"""`featcache backbones`: what `--backbone` takes."""

from __future__ import annotations

from typing import Annotated

import typer

from featcache.errors import UnknownNameError
from featcache.specs import ExtractSpec
from featcache_cli.console import ProgressDisplay, reset_progress, show_json, show_table
from featcache_cli.options import ImageSizeOption, JsonOption


def backbones(
    name: Annotated[
        str, typer.Argument(help="Only those whose name contains this.", show_default=False)
    ] = "",
    image_size: ImageSizeOption = ExtractSpec.image_size,
    json: JsonOption = False,
) -> None:
    """List the trunks: dimension, parameters, GFLOP per image, weights on this machine."""
    from featcache.backbones import backbone_names, list_backbones

    fitting = [known for known in backbone_names() if name in known]
    if not fitting:
        raise UnknownNameError("backbone", name, backbone_names(), listing="featcache backbones")
    display = ProgressDisplay()
    listed = []
    for info in list_backbones(image_size, names=fitting):
        listed.append(info)
        display.show("backbones", len(listed), len(fitting))
    reset_progress()
    if json:
        show_json({"backbones": listed})
        return
    show_table(
        ["backbone", "#features", "#params", "#GFLOP", "#px", "weights (* on this machine)"],
        (
            (
                b.name,
                b.n_features,
                f"{b.n_params / 1e6:.1f} M",
                f"{b.gflop:.3g}",
                b.image_size,
                " ".join(w + "*" * (w in b.weights_on_disk) for w in b.weights) or "none needed",
            )
            for b in listed
        ),
    )
