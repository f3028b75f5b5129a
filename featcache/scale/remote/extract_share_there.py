"""One share of a cache whose parts lie in an object store: made here, then uploaded."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from featcache.config import ExtractSpec
from featcache.core.reporting import NoteCallback
from featcache.core.store_urls import StoreUrl, store_url
from featcache.errors import CorruptError, DiskFullError, MismatchError, StorageError
from featcache.extraction.progress import Progress, ProgressCallback
from featcache.scale.plan_file import NAME, PartsPlan
from featcache.scale.remote.layout import (
    Marker,
    PartsThere,
    marker_bytes,
    marker_name,
    read_marker,
)
from featcache.scale.remote.objects import Objects
from featcache.scale.remote.part_files import sha256_of
from featcache.scale.remote.plans import plan_there, scratch_of
from featcache.scale.share_result import ShareResult
from featcache.scale.shares import Share
from featcache.store import locked, verify_cache

ComputeShare = Callable[[ExtractSpec, Share], ShareResult]


def extract_share_there(
    spec: ExtractSpec,
    which: Share,
    compute: ComputeShare,
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> ShareResult:
    """Compute one share of a cache in a folder of this machine, and upload it when it is complete.

    Args:
        spec: What the cache is to be; its `cache_dir` is the URL.
        which: The share.
        compute: Computes a share in a folder of this machine.
        on_progress: Called after each batch, and while the part is uploaded.
        on_note: Called with a sentence for each choice that was made.

    Returns:
        The part there. A share that is there already is not computed again.

    Raises:
        FeatcacheError: As `extract_share` raises them.
        StorageError: If the store does not answer.
    """
    url = store_url(spec.cache_dir)
    with Objects.at(url, on_note=on_note) as objects:
        plan = plan_there(
            objects,
            spec,
            which.n_shares,
            make=lambda local: Path(compute(local, Share(None, which.n_shares)).path),
            on_note=on_note,
        )
        there = PartsThere(objects, url.below(f"{plan.folder.parent.name}/{plan.folder.name}"))
        if which.index is None:
            command = plan.command(Share(0, which.n_shares), cache_dir=str(url))
            return ShareResult("", "planned", f"{there.url}/{NAME}", plan.n_rows, next=command)
        if found := _uploaded(there, plan, which.index):
            return found
        local = replace(spec, cache_dir=str(plan.folder.parent.parent))
        with as_copies_of(there.url):
            result = compute(local, which)
        join = f"featcache cache merge {shlex.quote(str(there.url))}"
        if result.outcome == "empty":
            return replace(result, next=join)
        marker = _upload(there, plan, which.index, on_progress, on_note)
        path = f"{there.url}/{marker.name}"
        # "reused" here: it had been computed, but not uploaded.
        outcome = "resumed" if result.outcome == "reused" else result.outcome
        return replace(result, outcome=outcome, path=path, next=join)


def _uploaded(there: PartsThere, plan: PartsPlan, index: int) -> ShareResult | None:
    """Say that a share is there, if it is."""
    first, stop = plan.blocks(index)
    if first == stop:
        return None
    name = marker_name(plan, index)
    content = there.objects.get(there.key(name))
    if content is None:
        return None
    marker = read_marker(content, f"{there.url}/{name}")
    n_rows = sum(block.stop - block.start for block in plan.manifest.blocks(first, stop))
    join = f"featcache cache merge {shlex.quote(str(there.url))}"
    path = f"{there.url}/{marker.name}"
    return ShareResult("", "reused", path, n_rows, nbytes=marker.nbytes, next=join)


def _upload(
    there: PartsThere,
    plan: PartsPlan,
    index: int,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> Marker:
    """Write a part into the store, then its marker; the copy here is then removed."""
    part = plan.part(index)
    with locked(part, remove=True):
        if not verify_cache(part).is_sound:
            raise CorruptError(
                f"{part} is damaged. Nothing was uploaded. Remove it, and run the same command "
                f"again: rm {shlex.quote(str(part))}"
            )
        marker = Marker(sha256_of(part), part.stat().st_size)

        def tell(n_done: int, n_total: int) -> None:
            on_progress(Progress("upload", "", n_done >> 20, n_total >> 20))

        there.objects.upload(there.key(marker.name), part, on_progress=tell)
        name = marker_name(plan, index)
        if not there.objects.put_new(there.key(name), marker_bytes(marker)):
            first = there.objects.get(there.key(name))
            if first is None:
                raise StorageError(
                    f"The store refuses to write {there.url}/{name}, but has none. The part is "
                    f"kept: {part}. Run the same command again: it uploads that."
                )
            on_note(f"another machine was first to upload share {index}; that part counts")
            marker = read_marker(first, f"{there.url}/{name}")
        part.unlink()
    return marker


@contextlib.contextmanager
def as_copies_of(url: StoreUrl) -> Iterator[None]:
    """Say in a refusal inside what the folder of this machine is that it names."""
    scratch = str(scratch_of(url.store))
    try:
        yield
    except MismatchError as err:
        if scratch not in str(err):
            raise
        raise MismatchError(
            f"{err} (That folder stands for {url}. To begin anew, remove both.)"
        ) from err
    except DiskFullError as err:
        raise DiskFullError(
            f"{err} (A part is made in {scratch} before it is uploaded; XDG_CACHE_HOME names "
            f"another place for that.)"
        ) from err
