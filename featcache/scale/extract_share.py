"""One share of a cache, computed as a part: a cache file of its own."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.config import ExtractSpec
from featcache.config.scale_specs import ShareSpec, split_share
from featcache.core.identity import differing_fields
from featcache.core.reporting import NoteCallback, silent
from featcache.core.side_files import partial_path
from featcache.core.starting import ANY_START, starting
from featcache.core.stopping import working
from featcache.core.store_urls import is_in_store
from featcache.errors import CorruptError, MismatchError, UsageError, counted
from featcache.extraction.opening import check_names, identified, known_rows, open_images
from featcache.extraction.progress import ProgressCallback
from featcache.extraction.result import reused
from featcache.images.splits import Dataset
from featcache.images.stat_index import KnownFiles
from featcache.scale.plan_file import PartsPlan, require_plan_of
from featcache.scale.planning import plan_parts
from featcache.scale.share_result import ShareResult
from featcache.scale.shares import RAY, Share, share_of
from featcache.store import CacheWriter, FilePlan, locked, open_cache, require_identity
from featcache.store.merging import known_of_rows, part_identity, part_plan, part_rows

if TYPE_CHECKING:
    from featcache.extraction.plan import Plan
    from featcache.extraction.run import Made

_HOUR_S = 3600


@starting(*ANY_START)
def extract_share(
    spec: ExtractSpec,
    *,
    share: str | None = ShareSpec.share,
    wait: float = ShareSpec.wait,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> ShareResult:
    """Compute one share of a cache, as a part beside the place of the cache.

    Where `spec.cache_dir` is a URL of an object store, the part is made in a folder of this
    machine, and uploaded when it is complete.

    The first share to come makes the plan that all have in common: it reads the whole dataset for
    its digest, and settles what else a single process would settle. A share that was stopped goes
    on; one that is done says so. `merge_parts` joins the parts to the file of a single process.
    "ray/N" computes all N as tasks of a Ray cluster: that of RAY_ADDRESS, one that runs here, or
    one that is started here meanwhile.

    Args:
        spec: What the cache is to be, as `extract` takes it.
        share: As in `ShareSpec`.
        wait: As in `ShareSpec`.
        on_progress: Called after each batch.
        on_note: Called with a sentence for each choice that was made.

    Returns:
        The part, and how it came to be.

    Raises:
        FeatcacheError: As `extract` raises them.

    Example:
        >>> import featcache
        >>> spec = featcache.ExtractSpec(dataset="digits", backbone="pixels", cache_dir=str(tmp))
        >>> [featcache.extract_share(spec, share=f"{i}/2").n_rows for i in range(2)]
        [1024, 773]
    """
    started = time.perf_counter()
    told = on_note or silent
    asked = ShareSpec(share=share, wait=wait)
    if asked.share is None:
        raise UsageError("--share says which share is computed, but was not given.")
    check_names(spec)
    kind, n_shares = split_share(asked.share)
    if kind == RAY:
        from featcache.scale.ray_engine import extract_on_ray  # its tasks call this function

        dealt = extract_on_ray(
            spec, n_shares, wait=wait, on_progress=on_progress or silent, on_note=told
        )
        seconds = time.perf_counter() - started
        return replace(dealt, seconds=seconds, images_per_s=dealt.n_rows_computed / seconds)
    which = share_of(asked.share, os.environ)

    def compute(spec: ExtractSpec, which: Share) -> ShareResult:
        plan = plan_parts(
            spec,
            which.n_shares,
            wait_s=_HOUR_S * asked.wait,
            on_progress=on_progress or silent,
            on_note=told,
        )
        return _share(spec, which, plan, on_progress=on_progress or silent, on_note=told)

    if is_in_store(spec.cache_dir):
        # Without the extra there is nothing to import there.
        from featcache.scale.remote.extract_share_there import extract_share_there

        result = extract_share_there(
            spec, which, compute, on_progress=on_progress or silent, on_note=told
        )
    else:
        result = compute(spec, which)
    return replace(result, share=str(which), seconds=time.perf_counter() - started)


def _share(
    spec: ExtractSpec,
    which: Share,
    plan: PartsPlan | Path,
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> ShareResult:
    """Compute a share, unless there is nothing to do."""
    whole = plan if isinstance(plan, Path) else plan.whole
    if isinstance(plan, Path) or whole.is_file():
        cache = open_cache(whole)
        if isinstance(plan, PartsPlan):
            require_identity(whole, cache.identity, plan.identity)
        on_note("the cache is complete: its parts are no longer needed")
        return _reused(whole)
    join = f"featcache cache merge {shlex.quote(str(plan.folder))}"
    if which.index is None:
        command = plan.command(Share(0, which.n_shares))
        return ShareResult("", "planned", plan.path, plan.n_rows, next=command)
    first, stop = plan.blocks(which.index)
    if first == stop:
        on_note(
            f"share {which} is empty: there are {counted(plan.manifest.n_blocks, 'block')} of "
            f"{plan.manifest.rows_per_block} rows for {which.n_shares} shares"
        )
        return ShareResult("", "empty", plan.path, next=join)
    part = plan.part(which.index)
    with locked(part):
        if part.exists():
            identity = part_identity(plan.identity, first, stop, plan.manifest.n_blocks)
            require_identity(part, open_cache(part).identity, identity)
            return replace(_reused(part), next=join)
        planned, made = _compute(spec, plan, which.index, on_progress=on_progress, on_note=on_note)
    done = _reused(part)
    return replace(
        done,
        outcome="resumed" if made.n_rows_computed < done.n_rows else "computed",
        n_rows_computed=made.n_rows_computed,
        images_per_s=made.n_rows_computed / made.filled.seconds if made.filled.seconds else 0.0,
        choices={**planned.choices, **made.choices},
        next=join,
    )


def _reused(path: Path) -> ShareResult:
    found = reused(path, {}, seconds=0.0)
    return ShareResult(
        "", "reused", path, found.n_rows, nbytes=found.nbytes, failures=found.failures
    )


def _compute(
    spec: ExtractSpec,
    plan: PartsPlan,
    index: int,
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> tuple[Plan, Made]:
    """Compute what is missing of a part; the caller holds its lock."""
    known = KnownFiles(rehash=spec.rehash, on_note=on_note)
    listed = open_images(spec, on_note=on_note)
    _require_same_rows(plan, listed)
    of_part = part_plan(plan.manifest, *plan.blocks(index))
    mine = listed.cut(part_rows(plan.manifest, *plan.blocks(index)))
    mine = identified(mine, spec, known, on_progress=on_progress, on_note=on_note).dataset
    _require_same_images(plan, index, mine)
    # They import torch, which takes seconds.
    from featcache.extraction.plan import Whole, make_plan
    from featcache.extraction.run import make_caches

    planned = make_plan(
        spec,
        mine,
        on_progress=on_progress,
        on_note=on_note,
        dataset_sha256=plan.identity["dataset_sha256"],
    )
    require_plan_of(plan, planned.identity)
    planned.backbone.require_published(None)
    planned = replace(
        planned,
        identity=of_part.identity,
        path=plan.part(index),
        whole=Whole({n: s.id_nbytes for n, s in of_part.splits.items()}, listed.has_heic),
    )
    with working():
        _begin(planned, plan, of_part)
    with known.trusted():
        [made] = make_caches([planned], on_progress=on_progress, on_note=on_note)
    return planned, made


def _begin(planned: Plan, plan: PartsPlan, of_part: FilePlan) -> None:
    """Make the file of a part, or go on with it: with what the plan settled for all of them."""
    rows = planned.rows()
    if partial_path(planned.path).exists():
        opened = CacheWriter.resume(planned.path, rows)
    else:
        opened = CacheWriter.create(planned.path, of_part, rows)
    with opened as writer:
        require_identity(writer.file, writer.manifest.identity, planned.identity)
        if plan.statistics is not None and writer.read_statistics() is None:
            writer.write_statistics(plan.statistics)
        if plan.reference is not None and writer.read_reference() is None:
            writer.write_reference(plan.reference)


def _require_same_rows(plan: PartsPlan, listed: Dataset) -> None:
    """Refuse another dataset than was planned, as far as its listing tells.

    Raises:
        MismatchError: With what differs.
    """
    manifest = plan.manifest
    differing = differing_fields(
        {"class_names": listed.class_names, **{n: len(s) for n, s in listed.splits.items()}},
        {"class_names": manifest.class_names, **{n: s.n_rows for n, s in manifest.splits.items()}},
    )
    if differing:
        raise _other_images(plan, "; ".join(differing))


def _require_same_images(plan: PartsPlan, index: int, mine: Dataset) -> None:
    """Refuse other images than the plan counts for a share.

    Raises:
        MismatchError: If labels, ids or bytes differ.
    """
    blocks, rows = plan.blocks(index), known_rows(mine)
    with contextlib.suppress(CorruptError):  # an id is longer than the longest of the plan
        if known_of_rows(plan.manifest, *blocks, rows, are_all=False) == plan.shares_sha256[index]:
            return
    raise _other_images(plan, f"labels, names or bytes of share {index} (shares_sha256)")


def _other_images(plan: PartsPlan, how: str) -> MismatchError:
    return MismatchError(
        f"The images here are not those that {plan.path} counts: {how}. Nothing was changed. Give "
        f"this machine the same images, or remove {shlex.quote(str(plan.folder))} to plan anew."
    )
