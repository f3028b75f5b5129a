"""The blocks that a worker claims and computes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.distributed import Store  # type: ignore[attr-defined]  # named in no __all__

from featcache.config import ExtractSpec
from featcache.core.plain_torch import plain_torch
from featcache.core.reporting import silent
from featcache.core.workers.messages import REFUSED, claimed_key, next_key
from featcache.core.workers.worker import tell
from featcache.errors import CorruptError, MismatchError
from featcache.extraction.expected_file import require_same_file
from featcache.extraction.fill import Filled, Target, fill
from featcache.extraction.job import Job
from featcache.extraction.opening import open_images
from featcache.extraction.pace import Pace, at_pace, current_pace
from featcache.extraction.plan import make_plan
from featcache.extraction.prepare import adapt, check_canaries
from featcache.extraction.reference_rows import compare_reference
from featcache.images.splits import ArrayImages, Dataset, Split
from featcache.scale.devices.work import Work, phases_key
from featcache.store import Block, CacheWriter, SplitRows
from featcache.store.columns import known_columns

_ROWS_AT_ONCE = 1 << 16
_CAREFUL_COMMIT_S = 0.02


def compute(work: Work, store: Store, *, rank: int, attempt: int) -> None:
    """Claim blocks and compute them, until none is left or a worker has refused.

    The weights, the images and the numeric class are held against the file first, and this device
    against the first and the last block that are there. Where none is there yet, it is held
    against those of the others at the end.

    Raises:
        MismatchError: If this worker would compute something else than the file holds.
        FeatcacheError: As `extract` raises them.
    """
    torch.set_num_threads(work.n_threads)  # they are a part of a CPU's numeric class
    of_worker = {"device": work.devices[rank], "n_workers": work.n_workers}
    spec = ExtractSpec(**{**work.spec, **of_worker})
    path = Path(work.cache)
    rows, dataset = _rows_in(path, open_images(spec, on_note=silent))
    plan = make_plan(
        spec,
        dataset,
        on_progress=silent,
        on_note=silent,
        dataset_sha256=work.dataset_sha256,
    )

    with plain_torch(), CacheWriter.resume(path, rows) as writer:
        require_same_file(writer.file, writer.manifest, plan)
        job = Job.resume(plan, writer, on_progress=silent, on_note=partial(tell, store))
        if spec.bn == "adapted":
            adapt(job, writer)
        compare_reference(job, writer)
        n_compared = check_canaries(job, writer)
        with at_pace(_pace(attempt)):
            [filled] = fill([Target(job, writer, _claimed(store, attempt, writer))])
        if not n_compared:
            writer.refresh()
            check_canaries(job, writer)
    store.set(phases_key(attempt, rank), _phases(filled))


def _pace(attempt: int) -> Pace:
    """Acknowledge at once where a worker has died: so the leader sees which block it died of."""
    usual = current_pace()
    return replace(usual, commit_s=_CAREFUL_COMMIT_S) if attempt else usual


def _claimed(store: Store, attempt: int, writer: CacheWriter) -> Iterator[Block]:
    """Count through the blocks together with the other workers, and yield those to compute.

    No two workers get one block. What was acknowledged before this start of the workers stands in
    the ledger, which was read since.
    """
    pending = {block.slot for block in writer.pending()}
    blocks = writer.manifest.blocks()
    while not store.check([REFUSED]):
        number = store.add(next_key(attempt), 1) - 1
        if number >= len(blocks):
            return
        block = blocks[number]
        if block.slot in pending:
            store.append(claimed_key(attempt), f"{block.slot},")  # type: ignore[attr-defined]
            yield block


def _rows_in(path: Path, listed: Dataset) -> tuple[dict[str, SplitRows], Dataset]:
    """Take from the file what is known of its rows: no worker reads all images for that.

    Returns:
        What is known, and the dataset, which refuses an image that changed since it was hashed.

    Raises:
        MismatchError: If the images are listed otherwise than when the file was begun.
    """
    rows, splits = {}, {}
    with CacheWriter.resume(path, {}) as file:
        for name, split in listed.splits.items():
            layout = file.manifest.splits.get(name)
            if layout is None or layout.n_rows != len(split):
                raise _others(path, name)
            digests: npt.NDArray[np.uint8] | None = None
            if "image_sha256" in layout.columns:
                digests = file.read_rows(name, 0, len(split), column="image_sha256")
            known = SplitRows(split.labels, split.ids, digests)
            if not _agrees(file, name, known):
                raise _others(path, name)
            rows[name], splits[name] = known, _expecting(split, digests)
    return rows, replace(listed, splits=splits)


def _agrees(file: CacheWriter, split: str, known: SplitRows) -> bool:
    """Tell whether a file has these rows of a split, before their images are decoded."""
    columns = file.manifest.splits[split].columns
    try:
        for start in range(0, len(known.ids), _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, len(known.ids))
            for column, content in known_columns(known, columns, start, stop).items():
                if file.read_rows(split, start, stop, column=column).tobytes() != content:
                    return False
    except CorruptError:  # an id is longer than its place
        return False
    return True


def _expecting(split: Split, digests: npt.NDArray[np.uint8] | None) -> Split:
    if digests is None or isinstance(split.images, ArrayImages):
        return split
    return replace(split, images=split.images.expecting([digest.tobytes() for digest in digests]))


def _others(path: Path, split: str) -> MismatchError:
    return MismatchError(
        f"The images of split {split!r} are others than when {path.name} was begun: their number, "
        f"labels or names changed meanwhile. All acknowledged rows are kept. Put the images back, "
        f"or remove the file (featcache cache rm {shlex.quote(str(path))}) and run again."
    )


def _phases(filled: Filled) -> str:
    by_phase: Mapping[str, float] = filled.by_phase
    return json.dumps({phase: round(seconds, 6) for phase, seconds in by_phase.items()})
