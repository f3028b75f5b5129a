"""`featcache backbones`: what `--backbone` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from featcache.config import ExtractSpec
from featcache.core.backbone_kinds import is_timm
from featcache.errors import UnknownNameError, counted
from featcache_cli.console import note, show_json
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.streams import flush_answer
from featcache_cli.tables import show_row, show_table

_WIDTHS = (18, 8, 7, 6, 4)
_TIMM_WIDTHS = (52, 8, 7, 10, 36)


@takes(options_of(ExtractSpec, "image_size", group="Measuring"))
def backbones(
    name: Annotated[
        str,
        typer.Argument(
            help="Only those whose name contains this; timm:PART lists timm's.", show_default=False
        ),
    ] = "",
    *,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="List what --layer takes of this one backbone.",
            rich_help_panel="Measuring",
        ),
    ] = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """List the backbones that --backbone takes.

    For each its features, parameters, GFLOP per image, and the weights on this machine. timm's are
    listed by a part of their name (timm:dinov3), with their pooling and licence.
    """
    if layers:
        _show_layers(name, options["image_size"], json=json)
        return
    if is_timm(name):
        _show_timm(name, json=json)
        return
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


def _show_timm(part: str, *, json: bool) -> None:
    from featcache.core.timm_names import require_timm

    require_timm(part)
    from featcache.backbones.timm_list import MOST_MEASURED, timm_rows

    rows = timm_rows(part)
    if json:
        show_json({"backbones": list(rows)})
        return
    n_rows = 0
    _show_timm_row(("backbone", "features", "px", "pooling", "licence", "here"))
    for b in rows:
        n_rows += 1
        features, pooling = b.n_features or "", b.pooling or ""
        here = "yes" if b.is_here else "no"
        _show_timm_row((b.name, features, b.image_size, pooling, b.licence, here))
    if n_rows > MOST_MEASURED:
        note(
            f"{n_rows} are too many to ask each for its features and pooling; name a part that "
            f"{MOST_MEASURED} or fewer have"
        )


def _show_layers(name: str, image_size: int | None, *, json: bool) -> None:
    from featcache.backbones.families import check_backbone_options

    check_backbone_options(name, ExtractSpec.weights, image_size)
    from featcache.backbones.describe import list_layers

    found = list_layers(name, image_size)
    if json:
        show_json({"layers": [{"name": b.name, "shape": b.shape, "pools": b.pools} for b in found]})
        return
    rows = [(b.name, " x ".join(map(str, b.shape)), ", ".join(b.pools)) for b in found]
    show_table(["layer", "shape", "pool, the usual one first"], rows)


def _show_row(cells: Sequence[object]) -> None:
    show_row(cells, _WIDTHS, are_numbers=[False, *[True] * (len(_WIDTHS) - 1), False])
    flush_answer()  # in a pipe too


def _show_timm_row(cells: Sequence[object]) -> None:
    show_row(cells, _TIMM_WIDTHS, are_numbers=[False, True, True, False, False, False])
    flush_answer()
