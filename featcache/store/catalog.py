"""Find, list and remove caches in a folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.core.files import named_failures
from featcache.core.find_by_part import find_by_part
from featcache.core.identity import differing_fields
from featcache.core.locks import locked
from featcache.core.paths import expanded
from featcache.core.side_files import (
    finished_path,
    lock_path,
    newborn_path,
    partial_path,
    report_path,
)
from featcache.core.stopping import working
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    FeatcacheError,
    MismatchError,
    UsageError,
)
from featcache.store.identity import Identity
from featcache.store.reader import read_state

_SHORTEST_PART = 3


@dataclass(frozen=True)
class CacheSummary:
    """One line of a listing.

    Attributes:
        path: The file.
        state: "complete", "incomplete", "damaged", or "unreadable" (no permission, a link, ...).
        dataset: Name of the dataset; empty if the file is damaged or unreadable.
        backbone: Name of the backbone.
        n_features: Length of a row, or of one view of it.
        n_rows: Rows of all splits.
        n_rows_done: Rows that are written.
        nbytes: Size of the file.
        fingerprint: 64 hex digits.
        problem: What is wrong with a damaged or unreadable file.
    """

    path: Path
    state: str
    dataset: str = ""
    backbone: str = ""
    n_features: int = 0
    n_rows: int = 0
    n_rows_done: int = 0
    nbytes: int = 0
    fingerprint: str = ""
    problem: str = ""


def cache_path(folder: Path, backbone: str, fingerprint: str) -> Path:
    """Name the file of a cache in its dataset's folder: `<backbone>-<8 hex>.h5`."""
    return folder / f"{backbone}-{fingerprint[:8]}.h5"


def list_caches(cache_dir: str | Path) -> list[CacheSummary]:
    """List the caches below a folder, complete or not, by path."""
    cache_dir = expanded(cache_dir)
    paths = [*cache_dir.glob("*/*.h5"), *cache_dir.glob("*/*.h5.partial")]
    return [summarise(path) for path in sorted(paths)]


def caches_in(folder: Path) -> list[CacheSummary]:
    """List the caches of one dataset's folder, complete or not, by path."""
    return [summarise(path) for path in _cache_files(folder)]


def summarise(path: Path) -> CacheSummary:
    """Read one file's line of a listing; a file that cannot be used is listed, too."""
    try:
        state = read_state(path)
    except FeatcacheError as err:
        nbytes = path.lstat().st_size if path.is_symlink() or path.exists() else 0
        state_of_it = "damaged" if isinstance(err, CorruptError) else "unreadable"
        return CacheSummary(path, state_of_it, nbytes=nbytes, problem=str(err))
    manifest = state.manifest
    return CacheSummary(
        path=path,
        state=state.word,
        dataset=manifest.provenance.dataset,
        backbone=manifest.identity.backbone,
        n_features=manifest.n_features,
        n_rows=state.n_rows,
        n_rows_done=state.n_rows_done,
        nbytes=manifest.file_size,
        fingerprint=manifest.identity.fingerprint,
        problem=f"{path}: slots of its ledger are damaged" if state.damaged_slots else "",
    )


def find_cache(name: str | Path, *, cache_dir: str | Path) -> Path:
    """Find a cache by its path, or by part of its name below `cache_dir`.

    Raises:
        CacheMissingError: If there is none, with the nearest names.
        UsageError: If several fit.
    """
    direct = expanded(name or ".")  # "" is too short a name
    is_named = direct.suffix in (".h5", ".partial") and os.path.lexists(direct)
    if is_named or direct.is_file():
        return direct
    if len(str(name)) < _SHORTEST_PART:  # an empty variable of a shell must not name a cache
        raise UsageError(
            f"{str(name)!r} is too short to be part of a cache's name. Nothing was changed. Give "
            f"its path, or at least {_SHORTEST_PART} characters of its name."
        )
    cache_dir = expanded(cache_dir)
    listing = f"featcache cache ls --cache-dir {shlex.quote(str(cache_dir))}"
    return find_by_part(
        str(name),
        {str(c.path.relative_to(cache_dir)): c.path for c in list_caches(cache_dir)},
        kind="cache",
        place=f"'{cache_dir}'",
        way_out=f"See what there is with: {listing}",
    )


def find_fingerprint(cache_dir: Path, fingerprint: str) -> Path | None:
    """Find a complete cache by its fingerprint below `cache_dir`; None if there is none."""
    for path in sorted(expanded(cache_dir).glob("*/*.h5")):
        summary = summarise(path)
        if summary.fingerprint == fingerprint and summary.state == "complete":
            return path
    return None


def require_identity(
    path: Path,
    found: Identity,
    wanted: Identity,
    *,
    way_out: str = "Move the file away, or choose another --cache-dir.",
) -> None:
    """Refuse a file in a cache's place that holds something else.

    Raises:
        MismatchError: With the fields that differ.
    """
    differing = differing_fields(found, wanted)
    if differing:
        raise MismatchError(
            f"{path} holds something else than was asked for: {'; '.join(differing)}. Nothing was "
            f"changed. {way_out}"
        )


def require_fields(path: Path, said: Mapping[str, Any], *names: str) -> None:
    """Refuse a cache that lacks a field which is needed now; not every cache has it.

    Args:
        path: The cache.
        said: Its identity and provenance, or one of them.
        names: The fields that are needed now.

    Raises:
        CorruptError: Naming those it lacks.
    """
    missing = [name for name in names if name not in said]
    if missing:
        raise CorruptError(
            f"{path} does not say its {', '.join(missing)}. Every cache that featcache extract "
            f"wrote does. Nothing was started. Extract it again."
        )


def near_misses(path: Path, identity: Identity) -> list[tuple[Path, list[str]]]:
    """List caches of the same dataset folder and backbone, with the fields in which they differ.

    The nearest comes first, which differs in the fewest fields; a preprocessing is one, however
    many of its parts differ.
    """
    misses = []
    for other in _cache_files(path.parent):
        try:
            found = read_state(other).manifest.identity
        except FeatcacheError:
            continue
        if other != path and found.backbone == identity.backbone:
            misses.append((_n_differing(found, identity), other, differing_fields(found, identity)))
    return [(other, differing) for _, other, differing in sorted(misses)]


def _n_differing(found: Identity, wanted: Identity) -> tuple[int, int]:
    """Count the fields that differ, and in how many values."""
    whole = [name for name in {*found, *wanted} if found.get(name) != wanted.get(name)]
    return len(whole), len(differing_fields(found, wanted))


def remove_cache(path: str | os.PathLike[str]) -> list[Path]:
    """Remove a cache, its partial file, its lock, and what `report` kept of it.

    Returns:
        The files that were removed.

    Raises:
        LockedError: If it is being written.
        CacheMissingError: If there is nothing to remove.
        CorruptError: If neither its content nor a lock beside it tells that it is a cache.
    """
    path = finished_path(expanded(path))
    present = _files_of(path)
    if not present:
        raise CacheMissingError(
            f"There is no cache at {path}. Nothing was removed. See what there is with: featcache "
            f"cache ls"
        )
    if not lock_path(path).exists() and not any(summarise(p).fingerprint for p in present):
        raise CorruptError(
            f"{path} cannot be read as a cache and no lock lies beside it, so it may be anything. "
            f"Nothing was removed. Delete it yourself if you are sure."
        )
    kept = "Nothing else was removed."
    with working(), named_failures(path, kept=kept), locked(path, remove=True):
        present = _files_of(path)  # by now a writer may have renamed its partial file
        for target in present:
            target.unlink()
        report_path(path).unlink(missing_ok=True)
    return present


def _cache_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.h5"), *folder.glob("*.h5.partial")])


def _files_of(path: Path) -> list[Path]:
    files = [path, partial_path(path), newborn_path(path)]
    return [p for p in files if p.exists() or p.is_symlink()]
