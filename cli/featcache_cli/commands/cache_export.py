"""`featcache cache export`: the rows of a cache into a file that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featcache.config import ExtractSpec
from featcache_cli.console import note, show_json
from featcache_cli.options import CacheArgument, JsonOption, options_of, takes
from featcache_cli.tables import show_facts

_FILE = "File"  # the group of the help that names what is written


@takes(options_of(ExtractSpec, "cache_dir"))
def export(
    cache: CacheArgument,
    format: Annotated[
        str, typer.Option(help="parquet, npz or safetensors.", rich_help_panel=_FILE)
    ],
    out: Annotated[
        Path, typer.Option(help="The file to write; it must not exist.", rich_help_panel=_FILE)
    ],
    split: Annotated[
        str | None, typer.Option(help="Just this split.  [default: all]", rich_help_panel=_FILE)
    ] = None,
    *,
    cache_dir: str,
    json: JsonOption = False,
) -> None:
    """Write features, labels and ids for other programs.

    `featcache cache import` makes the same cache of the file again.
    """
    from featcache import export_features
    from featcache.store import find_cache, human_bytes

    path = find_cache(cache, cache_dir=cache_dir)
    note(f"checking {path}")
    result = export_features(path, format=format, out=out, split=split)
    if json:
        show_json(result)
        return
    show_facts(
        {
            "exported": result.path,
            "rows": f"{result.n_rows} of {result.n_features} features ({', '.join(result.splits)})",
            "size": human_bytes(result.nbytes),
        }
    )
