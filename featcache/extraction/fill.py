"""Fill caches in one pass: one thread reads and computes, others write rows to the disk."""

from __future__ import annotations

import contextlib
import heapq
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from torch import Tensor

from featcache.backbones.in_flight import InFlight
from featcache.extraction.job import Job
from featcache.extraction.progress import Progress
from featcache.extraction.writer_thread import BlockWriter, FinishedBlock
from featcache.images.batches import ImageBatch, Span
from featcache.images.splits import Split
from featcache.store import Block, CacheWriter


class Target(NamedTuple):
    """A cache to be filled.

    Attributes:
        job: What computes its rows.
        writer: Its file.
        blocks: Which blocks are written here, by number of slot; each is asked for when its turn
            comes, so that several processes can deal them. None takes all that are pending.
    """

    job: Job
    writer: CacheWriter
    blocks: Iterable[Block] | None = None

    def can_share(self, other: Target) -> bool:
        """Tell whether one pass can serve both: the same images on the same grid of batches."""
        return (
            self.job.plan.preprocess == other.job.plan.preprocess
            and self.job.plan.views == other.job.plan.views
            and self.job.batch_size == other.job.batch_size
        )


class Filled(NamedTuple):
    """What filling a cache took.

    Attributes:
        seconds: Wall time, minus the time spent only on the other caches of the pass.
        by_phase: Its parts "read", "preprocess", "trunk", "check" and "write" (waiting for it).
        n_images: What was computed: each view of each image.
    """

    seconds: float
    by_phase: Mapping[str, float]
    n_images: int


def fill(targets: Sequence[Target]) -> list[Filled]:
    """Compute and write the pending blocks of caches that can share their reading.

    Each batch is read once, for all caches that lack its rows. Threads and decoding processes stay
    from the first block of a split to its last.

    Args:
        targets: At least one; all of one dataset.

    Returns:
        For each; reading and writing are those of the whole pass.
    """
    jobs = [target.job for target in targets]
    pending = [target.writer.pending() for target in targets]
    clock = _Clock(jobs, pending)
    splits = list(jobs[0].plan.dataset.splits.values())
    with contextlib.ExitStack() as stack:
        outs = [stack.enter_context(BlockWriter(t.writer, t.job.numerics)) for t in targets]
        makers = [_BlockMaker(*one, clock) for one in zip(targets, pending, outs, strict=True)]
        wanted = heapq.merge(*(maker.wanted(splits) for maker in makers))
        once = (batch for batch, _ in groupby(wanted))
        for number, batches in groupby(once, key=lambda batch: batch[0]):
            _fill_split(jobs[0], splits[number], (span for _, span in batches), makers, clock)
        waited = time.perf_counter()
    clock.write_s += time.perf_counter() - waited
    return [clock.report(job) for job in jobs]


def _fill_split(
    reader: Job, split: Split, spans: Iterator[Span], makers: Sequence[_BlockMaker], clock: _Clock
) -> None:
    n_views = reader.plan.views.n_of(split.name)
    loading = reader.load(split, spans, batch_size=reader.batch_size)
    with contextlib.closing(loading) as batches:
        started = time.perf_counter()
        for batch in batches:
            clock.read_s += time.perf_counter() - started
            for maker in makers:
                maker.add(split, batch)
            if batch.view == n_views - 1:  # a row is done when all its views are
                clock.tick(split.name, batch.span.stop - batch.span.start)
            started = time.perf_counter()
    for maker in makers:
        maker.finish()


class _BlockMaker:
    """Gathers the rows of one cache's blocks, each in a buffer of its own.

    A buffer has one view of all rows behind the other, so that a device copies to it in one piece.
    """

    def __init__(
        self, target: Target, pending: Sequence[Block], out: BlockWriter, clock: _Clock
    ) -> None:
        self._job = target.job
        self._layouts = target.writer.manifest.splits
        self._coming = pending if target.blocks is None else target.blocks
        self._out = out
        self._clock = clock
        self._blocks: dict[tuple[str, Span], Block] = {}
        self._launched: deque[tuple[Block, ImageBatch, InFlight]] = deque()
        self._rooms: dict[Block, Tensor] = {}
        self._reasons: dict[int, str] = {}

    def wanted(self, splits: Sequence[Split]) -> Iterator[tuple[int, Span]]:
        """Yield each batch that is wanted, with the number of its split."""
        numbers = {split.name: number for number, split in enumerate(splits)}
        for block in self._coming:
            for span in _grid(block, self._job.batch_size):
                self._blocks[block.split, span] = block
                yield numbers[block.split], span

    def add(self, split: Split, batch: ImageBatch) -> None:
        """Launch a batch if it is wanted, and hand over a block that is complete meanwhile."""
        block, span = self._blocks.get((split.name, batch.span)), batch.span
        if block is None:
            return
        n_views = self._n_views(block)
        if batch.view == n_views - 1:
            del self._blocks[split.name, span]
        if block not in self._rooms:
            dtype = self._layouts[block.split].columns["features"].dtype
            shape = (n_views, block.stop - block.start, *self._job.plan.row_shape)
            self._rooms[block] = self._job.host_rows(shape, dtype)
        room = self._rooms[block][batch.view]
        rows = room[span.start - block.start : span.stop - block.start]
        self._clock.n_images[self._job] += len(rows)
        self._launched.append((block, batch, self._job.launch(split, batch, rows)))
        self._take(self._job.n_ahead)

    def finish(self) -> None:
        """Hand over what is left."""
        self._take(0)

    def _take(self, n_left: int) -> None:
        """Wait for all launched batches but the last `n_left`."""
        while len(self._launched) > n_left:
            self._take_one(*self._launched.popleft())

    def _take_one(self, block: Block, batch: ImageBatch, flight: InFlight) -> None:
        flight.rows()  # they are views of the block's room
        first = batch.span.start - block.start
        self._reasons |= {first + i: reason for i, reason in batch.reasons.items()}
        if batch.span.stop < block.stop or batch.view < self._n_views(block) - 1:
            return
        valid = np.ones(block.stop - block.start, np.bool_)
        valid[list(self._reasons)] = False
        by_row = self._rooms.pop(block).numpy().swapaxes(0, 1)
        by_row[list(self._reasons)] = 0  # in all views, also if only one could not be made
        shape = self._layouts[block.split].columns["features"].shape
        features = by_row.reshape(len(valid), *shape[1:])
        finished = FinishedBlock(block, features, valid, self._reasons)
        self._reasons = {}
        with self._clock.writing():
            self._out.put(finished)

    def _n_views(self, block: Block) -> int:
        return self._job.plan.views.n_of(block.split)


class _Clock:
    """Counts images and seconds, and tells them."""

    def __init__(self, jobs: Sequence[Job], pending: Sequence[Sequence[Block]]) -> None:
        self.read_s = self.write_s = 0.0
        self.n_images = Counter[Job]()
        self._jobs = jobs
        for job in jobs:
            if job.runner is not None:
                job.runner.seconds.clear()  # of the canaries
        self._n_total = {n: len(split) for n, split in jobs[0].plan.dataset.splits.items()}
        self._n_left = Counter[str]()
        wanted = {
            (block.split, span)
            for job, blocks in zip(jobs, pending, strict=True)
            for block in blocks
            for span in _grid(block, job.batch_size)
        }
        for split, span in wanted:
            self._n_left[split] += span.stop - span.start
        self._n_new = 0
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Count what passes inside as waiting for the disk."""
        started = time.perf_counter()
        yield
        self.write_s += time.perf_counter() - started

    def report(self, job: Job) -> Filled:
        """Tell what this cache took so far."""
        wall_s = time.perf_counter() - self._started
        others_s = sum(sum(_inner_seconds(j).values()) for j in self._jobs if j is not job)
        by_phase = {"read": self.read_s, **_inner_seconds(job), "write": self.write_s}
        return Filled(max(0.0, wall_s - others_s), by_phase, self.n_images[job])

    def tick(self, split: str, n_images: int) -> None:
        """Count images and tell the caller."""
        self._n_new += n_images
        self._n_left[split] -= n_images
        rate = self._n_new / max(1e-9, time.perf_counter() - self._started)
        seconds = Counter({"read": self.read_s, "write": self.write_s})
        for job in self._jobs:
            seconds.update(_inner_seconds(job))
        self._jobs[0].on_progress(
            Progress(
                stage="extract",
                split=split,
                n_done=self._n_total[split] - self._n_left[split],
                n_total=self._n_total[split],
                images_per_s=rate,
                left_s=self._n_left.total() / rate,
                seconds=seconds,
            )
        )


def _inner_seconds(job: Job) -> dict[str, float]:
    nothing = dict.fromkeys(("preprocess", "trunk", "check"), 0.0)
    return nothing if job.runner is None else nothing | job.runner.seconds


def _grid(block: Block, batch_size: int) -> list[Span]:
    """Cut a block into batches: the grid is anchored at the block, wherever a run was cut."""
    starts = range(block.start, block.stop, batch_size)
    return [Span(start, min(start + batch_size, block.stop)) for start in starts]
