"""`featcache backbones`: what `--backbone` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from featcache.config import ExtractSpec
from featcache.errors import UnknownNameError, counted
from featcache_cli.console import note, show_json
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.streams import flush_answer
from featcache_cli.tables import show_row

_WIDTHS = (18, 8, 7, 6, 4)


@takes(options_of(ExtractSpec, "image_size", group="Measuring"))
def backbones(
    name: Annotated[
        str, typer.Argument(help="Only those whose name contains this.", show_default=False)
    ] = "",
    *,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """List the backbones that --backbone takes.

    For each its features, parameters, GFLOP per image, and the weights on this machine.
    """
    from featcache.core.backbone_names import LISTING, backbone_names

    fitting = [known for known in backbone_names() if name.lower() in known]
    if not fitting:
        raise UnknownNameError("backbone", name, backbone_names(), listing=LISTING)
    if not json:
        _show_row(("backbone", "features", "params", "GFLOP", "px", "weights (*here)"))
    from featcache.backbones.describe import list_backbones  # it imports torch, which takes seconds

    rows = list_backbones(options["image_size"], names=fitting)
    if json:
        note(f"measuring {counted(len(fitting), 'backbone')}")
        show_json({"backbones": list(rows)})
        return
    # Measuring a backbone takes up to a second, so each row is shown as it comes.
    for b in rows:
        weights = " ".join(w + "*" * (w in b.weights_on_disk) for w in b.weights)
        params, gflop = f"{b.n_params / 1e6:.1f} M", float(f"{b.gflop:.3g}")
        cells = (b.name, b.n_features, params, gflop, b.image_size, weights or "none")
        _show_row(cells)


def _show_row(cells: Sequence[object]) -> None:
    show_row(cells, _WIDTHS, are_numbers=[False, *[True] * (len(_WIDTHS) - 1), False])
    flush_answer()  # in a pipe too
