"""Make the plan of the parts: by the first share that comes, while the others wait for it."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from featcache.config import ExtractSpec
from featcache.core.backbone_kinds import backbone_slug
from featcache.core.identity import canonical_json
from featcache.core.paths import expanded
from featcache.core.reporting import NoteCallback, silent
from featcache.core.side_files import parts_folder
from featcache.errors import CacheMissingError, LockedError
from featcache.extraction.opening import open_images
from featcache.extraction.progress import Progress, ProgressCallback
from featcache.images.datasets import dataset_slug
from featcache.images.stat_index import KnownFiles
from featcache.scale.plan_file import (
    PartsPlan,
    asked_of,
    find_plan,
    read_plan,
    require_plan_of,
    require_shares,
)
from featcache.scale.shares import blocks_of_share
from featcache.store import Manifest, locked, read_state
from featcache.store.columns import SplitRows
from featcache.store.merging import known_of_rows, planned_manifest

_LOOKS_EVERY_S = 0.5


def plan_parts(
    spec: ExtractSpec,
    n_shares: int,
    *,
    wait_s: float,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> PartsPlan | Path:
    """Find the plan for these options, make it, or wait until another process has made it.

    Returns:
        The plan; or the cache, if it is there already and complete.

    Raises:
        CacheMissingError: If another process makes it, and takes longer than `wait_s` seconds.
        MismatchError: If there is a plan of another number of shares.
        FeatcacheError: Whatever else stops the making.
    """
    place = place_of_plan(spec)
    folder = place.parent
    began_s, is_told = time.monotonic(), False
    while True:
        if found := find_plan(folder, spec, n_shares, on_note=silent if is_told else on_note):
            return found
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(place, remove=True))
            except LockedError as err:
                if not is_told:
                    on_note(f"waiting for the plan of the parts: {err}")
                is_told = True
                _require_time(began_s, wait_s, folder, err)
                time.sleep(min(_LOOKS_EVERY_S, wait_s))
                continue
            if found := find_plan(folder, spec, n_shares, on_note=silent):  # made meanwhile
                return found
            made = _made(spec, n_shares, on_progress=on_progress, on_note=on_note)
            return made if isinstance(made, Path) else _written(made, on_note=on_note)


def place_of_plan(spec: ExtractSpec) -> Path:
    """Name what is locked while the plan is made: its folder has no name before that."""
    key = hashlib.sha256(canonical_json(asked_of(spec)).encode()).hexdigest()[:8]
    folder = expanded(spec.cache_dir) / dataset_slug(spec.dataset)
    return folder / f"{backbone_slug(spec.backbone)}-{key}.plan"


def _require_time(began_s: float, wait_s: float, folder: Path, err: LockedError) -> None:
    if time.monotonic() - began_s >= wait_s:
        raise CacheMissingError(
            f"There was no plan of the parts in {folder} within {wait_s / 3600:g} h, since another "
            f"process still makes it. {err} A longer --wait gives it more time."
        ) from err


def _made(
    spec: ExtractSpec, n_shares: int, *, on_progress: ProgressCallback, on_note: NoteCallback
) -> PartsPlan | Path:
    """Decide all that a single process would decide before its first row."""
    on_note(f"planning {n_shares} shares: the whole dataset is read once, for its digest")
    known = KnownFiles(rehash=spec.rehash, on_note=on_note)
    images = open_images(spec, on_note=on_note)
    # They import torch, which takes seconds.
    from featcache.core.plain_torch import plain_torch
    from featcache.extraction.job import Job
    from featcache.extraction.plan import make_plan
    from featcache.extraction.prepare import adapted_statistics
    from featcache.extraction.reference_rows import reference_rows

    plan = make_plan(spec, images, on_progress=on_progress, on_note=on_note, known=known)
    if plan.path.is_file() and read_state(plan.path).is_complete:
        return plan.path
    plan.backbone.require_published(None)
    with known.trusted(), plain_torch():
        job = Job.begin(plan, on_progress=on_progress, on_note=on_note)
        manifest = planned_manifest(job.file_plan())
        statistics = adapted_statistics(job) if spec.bn == "adapted" else None
        reference = None if job.runner is None else reference_rows(job.runner)
    on_progress(Progress("plan", "", 0, 0))
    known.save()
    return PartsPlan(
        folder=parts_folder(plan.path),
        asked=asked_of(spec),
        data_dir=str(spec.data_dir),
        n_shares=n_shares,
        manifest=manifest,
        shares_sha256=_digests(manifest, n_shares, plan.rows()),
        statistics=statistics,
        reference=reference,
    )


def _digests(manifest: Manifest, n_shares: int, rows: Mapping[str, SplitRows]) -> tuple[str, ...]:
    """Hash what is known of the rows of each share; empty for one without blocks."""
    ranges = [blocks_of_share(i, n_shares, manifest.n_blocks) for i in range(n_shares)]
    return tuple(
        known_of_rows(manifest, *r, rows, are_all=True) if r[0] < r[1] else "" for r in ranges
    )


def _written(made: PartsPlan, *, on_note: NoteCallback) -> PartsPlan:
    """Write the plan, or take the one that is there."""
    if made.write():
        on_note(f"the plan is {made.path}, in blocks of {made.manifest.rows_per_block} rows")
        return made
    there = read_plan(made.folder)  # made by other options that mean the same
    require_plan_of(there, made.identity)
    require_shares(there, made.n_shares)
    on_note(f"the plan was there: {there.path}")
    return there
