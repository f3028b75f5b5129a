"""Bring a cache from an object store to this machine, and seal it there."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from featcache.config import ExtractSpec
from featcache.core.files import make_folder, named_failures, require_space
from featcache.core.locks import locked
from featcache.core.paths import expanded
from featcache.core.reporting import NoteCallback, silent
from featcache.core.side_files import partial_path
from featcache.core.starting import ANY_START, starting
from featcache.core.stopping import stop_if_asked
from featcache.core.store_urls import PARTS, StoreUrl, parts_url
from featcache.errors import CacheMissingError, CorruptError, MismatchError, StorageError
from featcache.scale.merge_parts import MergeResult, merge_parts
from featcache.scale.remote.describe_there import FoundThere, find_there, way_to_anew
from featcache.scale.remote.layout import SEAL, Marker, PartsThere, seal_of
from featcache.scale.remote.objects import Objects
from featcache.scale.remote.part_files import bring_part, sha256_of
from featcache.scale.remote.plans import scratch_of, write_plan
from featcache.store import open_cache, require_identity

_COPIED = "copied-from"  # in a folder of copies, which is removed at the end

FetchProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FetchResult:
    """What `fetch_cache` did.

    Attributes:
        path: The cache on this machine.
        url: Of its parts.
        outcome: "fetched", or "reused" (it was on this machine).
        fingerprint: 64 hex digits.
        n_rows: Rows of all splits.
        n_features: D.
        n_shares: Shares that were joined, empty ones included.
        nbytes: Size of the file.
        n_failures: Images that could not be read; their rows are marked invalid.
        seconds: Wall time of this call.
    """

    path: Path
    url: str
    outcome: str
    fingerprint: str
    n_rows: int
    n_features: int
    n_shares: int
    nbytes: int
    n_failures: int
    seconds: float


@starting(*ANY_START)
def fetch_cache(
    url: str,
    *,
    cache_dir: str | None = None,
    mix_numerics: bool = ExtractSpec.mix_numerics,
    on_progress: FetchProgress | None = None,
    on_note: NoteCallback | None = None,
) -> FetchResult:
    """Bring a cache from an object store to this machine, byte for byte that of one process.

    Every part is compared with its digest when it comes, and every block when the parts are
    joined. With a `cache_dir`, the parts in the store are then sealed: `cache.json` names them.
    Without one, nothing is written there. A call that was stopped goes on with the same call; a
    cache that is here already is only looked at.

    Args:
        url: Of the folder of the parts: s3://BUCKET/PREFIX/DATASET/NAME.parts, or gs://, az://.
        cache_dir: The folder for the cache; None is a folder of featcache's own, in
            XDG_CACHE_HOME or `~/.cache`.
        mix_numerics: Take blocks that another numeric class computed; their last digits may differ.
        on_progress: Called with ("bytes" or "blocks", done, to do).
        on_note: Called with a sentence for each choice that was made.

    Raises:
        CacheMissingError: If shares are missing, or there is no plan.
        MismatchError: If a part is not of the plan, or of another numeric class.
        CorruptError: If a part, a marker or the plan is damaged.
        DiskFullError: If the disk cannot hold the parts and the cache.
        StorageError: If the store does not answer.
        UsageError: If the extra `cloud` is missing, or there is no such bucket.
    """
    started_s = time.perf_counter()
    told, tell = on_note or silent, on_progress or (lambda _, __, ___: None)
    place = parts_url(url)
    with (
        Objects.at(place.store, on_note=told) as objects,
        tempfile.TemporaryDirectory(prefix="featcache-") as folder,
    ):
        try:
            found = find_there(PartsThere(objects, place), Path(folder))
        except StorageError as err:
            if cache_dir is None and (copy := _newest_copy(place)):
                raise StorageError(
                    f"{err} A copy that may be older is on this machine: --cache "
                    f"{shlex.quote(str(copy))}"
                ) from err
            raise
        _require_complete(found)
        seal = seal_of(found.plan_bytes, found.plan, found.markers).to_bytes()
        if cache_dir is None:
            home = _copies(place) / hashlib.sha256(seal).hexdigest()[:16]
        else:
            home = expanded(cache_dir)
        whole = home / place.path.split("/")[-2] / found.plan.whole.name
        _require_same_seal(found, seal)
        is_there = whole.is_file()
        # A folder of copies beside it is of a merge that was killed before it had sealed.
        if is_there and not (whole.with_suffix(PARTS) / _COPIED).is_file():
            require_identity(whole, open_cache(whole).identity, found.plan.identity)
            told(f"the cache is on this machine: {whole}")
        else:
            _merged(found, whole, seal if cache_dir else None, mix_numerics, tell, told)
    cache = open_cache(whole)
    return FetchResult(
        path=whole,
        url=str(place),
        outcome="reused" if is_there else "fetched",
        fingerprint=cache.identity.fingerprint,
        n_rows=found.plan.n_rows,
        n_features=found.description.n_features,
        n_shares=found.plan.n_shares,
        nbytes=whole.stat().st_size,
        n_failures=sum(len(split.failures) for split in cache.splits.values()),
        seconds=time.perf_counter() - started_s,
    )


def _copies(place: StoreUrl) -> Path:
    """Give the folder in which the copies of a store's caches are, each in one of its own."""
    return scratch_of(place.store) / "copies"


def _newest_copy(place: StoreUrl) -> Path | None:
    """Find the copy of a cache that was made here last."""
    dataset, parts = place.path.split("/")[-2:]
    name = Path(parts).with_suffix(".h5").name
    found = _copies(place).glob(f"*/{dataset}/{name}")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _require_complete(found: FoundThere) -> None:
    """Refuse a folder that is not whole, as far as its markers and sizes tell."""
    description = found.description
    for part in description.parts:
        if part.problem:
            raise CorruptError(part.problem)
    if description.strangers:
        raise MismatchError(
            f"{description.strangers[0]} is not of {description.folder}'s plan. Nothing was "
            f"changed. Remove it with a tool of the store."
        )
    if description.missing:
        raise CacheMissingError(
            f"Of the {description.n_shares} shares of {description.folder}, these are missing: "
            f"{description.missing}. Nothing was changed. On SLURM: sbatch "
            f"--array={description.missing} with the same script. Elsewhere: {description.command}"
        )


def _merged(
    found: FoundThere,
    whole: Path,
    seal: bytes | None,
    mix_numerics: bool,
    tell: FetchProgress,
    on_note: NoteCallback,
) -> MergeResult:
    """Copy the parts beside the place of the cache, join and seal them, and remove the copies."""
    url, folder = found.there.url, whole.with_suffix(PARTS)
    with locked(folder, remove=True):
        mark = folder / _COPIED
        is_ours = mark.is_file() or not any(folder.glob("*"))
        if is_ours:  # marked before anything else is in it: a kill leaves nothing unmarked
            with named_failures(mark, kept="Nothing was copied."):
                make_folder(folder)
                mark.write_text(f"{url}\n")
        write_plan(folder, found.plan_bytes)
        if not is_ours:
            _require_no_others(found, folder)
        _bring(found, folder, whole, tell, on_note)
        try:
            merged = merge_parts(
                folder,
                mix_numerics=mix_numerics,
                on_progress=lambda done, total: tell("blocks", done, total),
                on_note=on_note,
            )
        except (CorruptError, MismatchError) as err:
            raise type(err)(
                f"{err} That folder has copies of {url}: compute there, with --cache-dir "
                f"{url.store}, after the marker of the share is removed."
            ) from err
        if seal is not None:
            _seal(found, seal)
        if is_ours:
            shutil.rmtree(folder)
    return merged


def _require_no_others(found: FoundThere, folder: Path) -> None:
    """Refuse parts that were computed here and have other bytes: they are not ours to remove."""
    for i, marker in found.markers.items():
        path = folder / found.plan.part(i).name
        if path.exists() and not _is_copied(path, marker):
            raise MismatchError(
                f"{path} was computed here, and has other bytes than the part in "
                f"{found.there.url}. Nothing was changed. Choose another --cache-dir, or join the "
                f"parts of this machine: featcache cache merge {shlex.quote(str(folder))}"
            )


def _bring(
    found: FoundThere, folder: Path, whole: Path, tell: FetchProgress, on_note: NoteCallback
) -> None:
    """Copy the parts that are not here yet."""
    n_total = sum(marker.nbytes for marker in found.markers.values())
    paths = {i: folder / found.plan.part(i).name for i in found.markers}
    missing = [i for i, path in paths.items() if not _is_copied(path, found.markers[i])]
    n_missing = sum(found.markers[i].nbytes for i in missing)
    is_reserved = whole.exists() or partial_path(whole).exists()  # by a merge that was stopped
    n_whole = 0 if is_reserved else found.plan.manifest.file_size
    require_space(whole.parent, nbytes=n_missing + n_whole)
    on_note(f"copying {len(missing)} of {len(paths)} parts from {found.there.url}")
    n_done = n_total - n_missing
    for i in missing:
        stop_if_asked()
        paths[i].unlink(missing_ok=True)
        tell_part = partial(_tell_part, tell, n_done, n_total)
        try:
            bring_part(found.there, found.markers[i], paths[i], on_progress=tell_part)
        except CorruptError as err:
            raise CorruptError(f"{err} {way_to_anew(found, i)}") from err
        n_done += found.markers[i].nbytes


def _tell_part(tell: FetchProgress, n_before: int, n_total: int, n_done: int, _: int) -> None:
    tell("bytes", n_before + n_done, n_total)


def _is_copied(path: Path, marker: Marker) -> bool:
    return (
        path.is_file() and path.stat().st_size == marker.nbytes and sha256_of(path) == marker.sha256
    )


def _require_same_seal(found: FoundThere, seal: bytes) -> None:
    """Refuse parts of which others are sealed, before anything is copied."""
    there = found.there
    if SEAL in found.sizes and there.objects.get(there.key(SEAL)) not in (None, seal):
        raise _other_seal(found)


def _seal(found: FoundThere, seal: bytes) -> None:
    """Write the seal; it follows from the markers, so one that is there is the same.

    Raises:
        MismatchError: If it was made of other parts.
    """
    if not found.there.objects.put_new(found.there.key(SEAL), seal):
        raise _other_seal(found)


def _other_seal(found: FoundThere) -> MismatchError:
    return MismatchError(
        f"{found.there.url}/{SEAL} seals other parts than those that the markers name. What is "
        f"there is as it was. If a part was made anew, remove the seal with a tool of the store, "
        f"and run the same command again."
    )
