"""What the cache commands do with parts in an object store."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import typer

from featcache.errors import UsageError, counted
from featcache_cli.console import (
    ProgressDisplay,
    duration,
    fail,
    note,
    reset_progress,
    show_json,
)
from featcache_cli.tables import show_facts

if TYPE_CHECKING:
    from featcache import FetchResult, MergeResult
    from featcache.core.store_urls import StoreUrl
    from featcache.scale.parts import PartsDescription


def fetch(
    url: str, cache_dir: str, mix_numerics: bool, display: ProgressDisplay, *, json: bool
) -> None:
    """Bring the parts of an object store here, joined, and seal them there."""
    from featcache import fetch_cache

    result = fetch_cache(
        url,
        cache_dir=cache_dir,
        mix_numerics=mix_numerics,
        on_progress=lambda what, *of: display.show(what, *of),
        on_note=note,
    )
    reset_progress()
    show_joined(result, json=json)
    if result.n_failures:
        n_failed = f"{result.n_failures} of {counted(result.n_rows, 'image')}"
        fail(f"{n_failed} could not be read.", kind="unreadable")
        note(f"They are listed by: featcache cache info {shlex.quote(str(result.path))}")
        raise typer.Exit(3)


def show_joined(result: FetchResult | MergeResult, *, json: bool) -> None:
    """Show a cache that was joined of parts, and what it took."""
    from featcache.store import human_bytes

    if json:
        show_json(result)
    else:
        show_facts(
            {
                result.outcome: result.path,
                "rows": f"{result.n_rows} of {counted(result.n_features, 'feature')}",
                "shares": result.n_shares,
                "size": human_bytes(result.nbytes),
                "time": duration(result.seconds),
            }
        )


def copy_of(url: str, display: ProgressDisplay) -> str:
    """Bring a cache here for a command that reads it, unless a copy is here already."""
    from featcache import fetch_cache

    result = fetch_cache(url, on_progress=lambda what, *of: display.show(what, *of), on_note=note)
    reset_progress()
    return str(result.path)


def described(folder: str) -> PartsDescription:
    """Say which parts are there."""
    from featcache.scale.remote.describe_there import describe_there

    return describe_there(folder, on_note=note)


def verified(folder: str, display: ProgressDisplay, *, subset: float) -> PartsDescription:
    """Read every part, and say which are not as written."""
    from featcache.scale.remote.describe_there import verify_there

    if subset != 1:
        raise UsageError(
            "--subset is for files of this machine: a part in an object store is read whole, or "
            "its digest cannot be compared. Nothing was checked."
        )
    return verify_there(folder, on_progress=lambda *of: display.show("parts", *of), on_note=note)


def list_there(cache_dir: str) -> list[StoreUrl]:
    """List the folders of parts below a URL."""
    from featcache.scale.remote.describe_there import list_there as listed

    return listed(cache_dir, on_note=note)
