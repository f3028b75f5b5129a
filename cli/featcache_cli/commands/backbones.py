"""`featcache backbones`: what `--backbone` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from featcache.errors import UnknownNameError
from featcache.specs import ExtractSpec
from featcache_cli.console import note, show_json, show_line
from featcache_cli.options import ImageSizeOption, JsonOption
from featcache_cli.streams import flush_answer

_WIDTHS = (18, 8, 7, 6, 4)


def backbones(
    name: Annotated[
        str, typer.Argument(help="Only those whose name contains this.", show_default=False)
    ] = "",
    image_size: ImageSizeOption = ExtractSpec.image_size,
    json: JsonOption = False,
) -> None:
    """List the trunks that --backbone takes.

    For each its features, parameters, GFLOP per image, and the weights on this machine.
    """
    from featcache.backbonenames import LISTING, backbone_names

    fitting = [known for known in backbone_names() if name.lower() in known]
    if not fitting:
        raise UnknownNameError("backbone", name, backbone_names(), listing=LISTING)
    if not json:
        _show_row(("backbone", "features", "params", "GFLOP", "px", "weights (*here)"))
    from featcache.backbones import list_backbones  # it imports torch, which takes seconds

    rows = list_backbones(image_size, names=fitting)
    if json:
        note(f"measuring {len(fitting)} backbones")
        show_json({"backbones": list(rows)})
        return
    # Measuring a trunk takes up to a second, so each row is shown as it comes.
    for b in rows:
        weights = " ".join(w + "*" * (w in b.weights_on_disk) for w in b.weights)
        params = f"{b.n_params / 1e6:.1f} M"
        cells = (b.name, b.n_features, params, f"{b.gflop:.3g}", b.image_size, weights or "none")
        _show_row(cells)


def _show_row(cells: Sequence[object]) -> None:
    name, *numbers, last = cells
    aligned = [f"{n:>{w}}" for n, w in zip(map(str, numbers), _WIDTHS[1:], strict=True)]
    show_line(escape(" ".join([f"{name:<{_WIDTHS[0]}}", *aligned, "", str(last)])))
    flush_answer()  # in a pipe too
