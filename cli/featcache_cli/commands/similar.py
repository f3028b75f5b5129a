"""`featcache similar`: which rows of a cache are nearest to an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.config import ExtractSpec, RunSpec, SimilarSpec
from featcache.errors import counted
from featcache_cli.console import note, show_json
from featcache_cli.helpgroups import OUTPUT
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.tables import show_facts, show_table
from featcache_cli.typed import local_path

if TYPE_CHECKING:
    from featcache.insight.similar.result import SimilarImages


@takes(
    options_of(SimilarSpec),
    options_of(RunSpec, "cache"),
    options_of(
        ExtractSpec,
        "dataset",
        optional=True,
        unset="what the cache names",
        help={"dataset": "Where the images of the cache are now, for the page."},
    ),
    options_of(
        ExtractSpec,
        "backbone",
        "weights",
        optional=True,
        unset="what the cache says",
        help={
            "backbone": "The backbone of the cache, where that must not choose it: "
            "PACKAGE.MODULE:FUNCTION, timm:hf-hub:ORG/NAME or timm:local-dir:PATH.",
            "weights": "The file of its weights, where that has moved.",
        },
    ),
    options_of(ExtractSpec, "device", "data_dir", "cache_dir"),
)
def similar(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE|ID",
            help="An image file, or the id of a row: SPLIT:ID, or a part that one id alone has.",
        ),
    ],
    *,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="Write a page of pictures into this .html file.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            callback=local_path,
        ),
    ] = None,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Find the rows of a cache that are nearest to an image.

    Near is what has a high cosine; each row is compared. A new image goes through the backbone of
    the cache first.
    """
    from featcache import similar as run

    result = run(image, out=out, **options, on_note=note)
    if json:
        show_json(result)
        return
    _show(result)


def _show(result: SimilarImages) -> None:
    label = f", class {result.label}" if result.label is not None else ""
    row = f" ({result.split} row {result.row}{label})" if result.split is not None else ""
    note(f"{result.image}{row} was compared with {counted(result.n_rows, 'row')}")
    has_labels = any(one.label is not None for one in result.neighbours)
    has_same = any(one.is_same_image for one in result.neighbours)
    columns = ["#cosine", "split", "#row", *["class"] * has_labels, *["same"] * has_same, "id"]
    rows = [
        (
            f"{one.similarity:.4f}",
            one.split,
            one.row,
            *[one.label] * has_labels,
            *["yes" if one.is_same_image else "-"] * has_same,
            one.id,
        )
        for one in result.neighbours
    ]
    show_table(columns, rows)
    if result.page is not None:
        show_facts({"page": result.page})
