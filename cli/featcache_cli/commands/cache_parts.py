"""`featcache cache merge`, and what `ls`, `info` and `verify` say of a folder of parts."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from featcache.config import ExtractSpec
from featcache.core.store_urls import is_in_store
from featcache.errors import UsageError, counted
from featcache_cli.commands import cache_there
from featcache_cli.console import (
    ProgressDisplay,
    fail,
    note,
    reset_progress,
    show_json,
)
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache.scale.parts import PartsDescription
    from featcache.store import VerifyReport

_SHOWN_FAILURES = 10

FolderArgument = Annotated[
    str,
    typer.Argument(metavar="FOLDER", help="The folder of the parts, `<name>.parts`, or its URL."),
]


@takes(
    options_of(
        ExtractSpec,
        "mix_numerics",
        help={"mix_numerics": "Take parts of different hardware or library versions."},
    ),
    options_of(
        ExtractSpec,
        "cache_dir",
        help={"cache_dir": "Folder for the cache, if the parts are in an object store."},
        optional=True,
        unset="cache; beside the parts, if they are in a folder",
    ),
)
def merge(
    folder: FolderArgument,
    *,
    mix_numerics: bool,
    cache_dir: str | None,
    json: JsonOption = False,
) -> None:
    """Join the parts of a cache, byte for byte as one process would have written it.

    Every byte is compared with its digest. Exit 10 if shares are missing, 12 if a part is not of
    the plan, 13 if one is damaged, 3 if images could not be read. Parts in an object store are
    copied for that, and sealed there.
    """
    from featcache import merge_parts

    display = ProgressDisplay()
    if is_in_store(folder):
        cache_there.fetch(
            folder, cache_dir or ExtractSpec.cache_dir, mix_numerics, display, json=json
        )
        return
    if cache_dir is not None:
        raise UsageError(
            f"--cache-dir is for parts in an object store; those of {folder} are joined beside it. "
            f"Nothing was started."
        )
    result = merge_parts(
        folder,
        mix_numerics=mix_numerics,
        on_progress=lambda done, total: display.show("blocks", done, total),
        on_note=note,
    )
    reset_progress()
    cache_there.show_joined(result, json=json)
    note(f"The parts are no longer needed: rm -r {shlex.quote(folder)}")
    if result.failures:
        n = len(result.failures)
        fail(f"{n} of {counted(result.n_rows, 'image')} could not be read.", kind="unreadable")
        for failure in result.failures[:_SHOWN_FAILURES]:
            note(f"  {failure.split} {failure.id}: {failure.reason}")
        if n > _SHOWN_FAILURES:
            note(f"  and {n - _SHOWN_FAILURES} more: featcache cache info {result.path}")
        raise typer.Exit(3)


def list_parts(folder: str, *, json: bool) -> None:
    """List the parts of a folder, one a line, and what is missing."""
    from featcache.store import human_bytes

    found = described(folder)
    if json:
        show_json(found)
    else:
        show_table(
            ["#share", "#rows", "#size", "state", "part"],
            (
                (
                    part.index,
                    part.n_rows,
                    human_bytes(part.nbytes),
                    f"{100 * part.n_rows_done // part.n_rows}%"
                    if part.state == "incomplete"
                    else part.state,
                    part.path,
                )
                for part in found.parts
            ),
        )
    _end(found)


def tell_parts(folder: str, *, json: bool) -> None:
    """Say what a folder of parts holds, and what is missing."""
    from featcache.store import human_bytes

    found = described(folder)
    if json:
        show_json(found)
    else:
        n_done = sum(part.is_there for part in found.parts)
        show_facts(
            {
                "parts": found.folder,
                "state": f"{found.state}, {n_done} of {counted(found.n_shares, 'share')}, "
                f"{found.n_rows_done} of {counted(found.n_rows, 'row')}",
                "dataset": found.dataset,
                "backbone": found.backbone,
                "fingerprint": found.fingerprint,
                "size": human_bytes(found.nbytes),
                "cache": found.cache,
            }
        )
    _end(found)


def verify_parts(folder: str, *, subset: float, json: bool) -> None:
    """Check every digest of every part that is there, and hold all parts against the plan."""
    from featcache.store import verify_cache

    display = ProgressDisplay()
    reports: list[VerifyReport] = []
    if is_in_store(folder):
        found = cache_there.verified(folder, display, subset=subset)
        n_rows_checked = found.n_rows_done
    else:
        found = described(folder, reads_rows=True)
        for part in found.parts:
            display.show("parts", part.index, found.n_shares)
            if part.state in ("complete", "incomplete", "other numerics"):
                reports.append(verify_cache(part.path, subset=subset))
        n_rows_checked = sum(report.n_rows_checked for report in reports)
    reset_progress()
    n_checked = sum(part.state not in ("missing", "empty") for part in found.parts)
    damaged = [report for report in reports if not report.is_sound]
    states = {part.state for part in found.parts}
    is_damaged = bool(damaged) or "damaged" in states
    is_sound = not (is_damaged or "stranger" in states or found.strangers)
    if json:
        show_json({**vars(found), "is_sound": is_sound, "reports": reports})
    else:
        show_facts(
            {
                "parts": found.folder,
                "checked": f"{counted(n_checked, 'part')}, {n_rows_checked} of "
                f"{counted(found.n_rows, 'row')}",
                "result": "sound" if is_sound else "DAMAGED" if is_damaged else "NOT OF ONE PLAN",
            }
        )
    for report in damaged:
        for damage in report.damages:
            rows = f"{damage.split} rows {damage.first_row} to {damage.last_row}"
            fail(f"{report.path}: {rows}: {damage.what}", kind="damaged")
        note(f"Compute it again: rm {shlex.quote(str(report.path))}, then its share")
    if damaged:
        raise typer.Exit(13)
    _end(found)


def described(folder: str, *, reads_rows: bool = False) -> PartsDescription:
    """Describe a folder of parts, on this machine or in an object store."""
    if is_in_store(folder):
        return cache_there.described(folder)
    from featcache import describe_parts

    return describe_parts(folder, reads_rows=reads_rows)


def _end(found: PartsDescription) -> None:
    """Tell what is wrong and what is missing, and end with its exit code."""
    for part in found.parts:
        if part.problem:
            fail(part.problem, kind=part.state)
    for stranger in found.strangers:
        fail(f"{stranger} is not of this plan", kind="stranger")
    if found.missing:
        note(
            f"Missing shares: {found.missing}. On SLURM: sbatch --array={found.missing} with the "
            f"same script. Elsewhere: {found.command}"
        )
    elif not found.strangers:
        note(f"All shares are there. Join them with: {found.command}")
    states = {part.state for part in found.parts}
    if "damaged" in states:
        raise typer.Exit(13)
    if states & {"stranger", "other numerics"} or found.strangers:
        raise typer.Exit(12)
    if found.missing:
        raise typer.Exit(10)
