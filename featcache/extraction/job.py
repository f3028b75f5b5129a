"""What a run needs, how its backbone is made ready, and whether it is still the same backbone."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.backbones.batchnorm import (
    adapt_batch_norm,
    batch_norm_statistics,
    load_batch_norm_statistics,
)
from featcache.backbones.engines.trial import CompileError, compile_backbone
from featcache.backbones.runner import BackboneRunner, require_storable
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NOT_DECODED_HERE, NoteCallback, silent
from featcache.core.tolerances import feature_tolerance
from featcache.errors import DeviceError, MismatchError
from featcache.images.batches import Batch, Span, image_shape, load_batches
from featcache.images.splits import Dataset, Split
from featcache.store import CacheWriter

PIXELS_BATCH_SIZE = 64  # where no network runs
# All that decides adapted statistics beside the dataset and the backbone; part of the identity. The
# batch is the notebook's.
_ADAPT_BATCH_SIZE = 64
_ADAPT_SEED = 0
ADAPTATION = {"mode": "adapted", "batch_size": _ADAPT_BATCH_SIZE, "seed": _ADAPT_SEED}


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: "digest" (reading the dataset for its identity), "weights" (reading them), "probe"
            (how many images fit into memory), "engines" (compiling the backbone), "check" (the
            rows of a partial file), "adapt" (BatchNorm statistics) or "extract".
        split: The split at hand; empty before there is one.
        n_done: Images done in this stage and split, rows kept from before included; on a GPU those
            in flight are counted too.
        n_total: Images of this stage and split; 0 where nothing can be counted.
        images_per_s: Rate of this run so far.
        left_s: Seconds left for all splits, at that rate.
        seconds: Time of this run so far, by "read", "preprocess", "trunk", "check" and "write"
            (only what the backbone waited for the writer).
    """

    stage: str
    split: str
    n_done: int
    n_total: int
    images_per_s: float = 0.0
    left_s: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]
Landing = Callable[[], None]
"""Waits for the rows of a batch that was begun."""


@dataclass(frozen=True, eq=False)
class Job:
    """All that a run needs, each choice made.

    Attributes:
        dataset: The images.
        preprocess: Image to input.
        runner: The backbone; None stores the pixels themselves.
        store_dtype: "float32", "float16"; "uint8" for pixels.
        n_workers: Decoding processes.
        numerics: The numeric class of this run.
        on_progress: Called after each batch.
        on_note: Told what the run met and went on from.
        skip_undecodable: Whether an image that this machine cannot decode is left out.
    """

    dataset: Dataset
    preprocess: Preprocess
    runner: BackboneRunner | None
    store_dtype: str
    n_workers: int
    numerics: Mapping[str, Any]
    on_progress: ProgressCallback
    on_note: NoteCallback = silent
    skip_undecodable: bool = False

    @property
    def batch_size(self) -> int:
        """Rows of the batch grid."""
        return PIXELS_BATCH_SIZE if self.runner is None else self.runner.batch_size

    def load(
        self, split: Split, spans: Sequence[Span], *, may_skip: bool = True
    ) -> Generator[Batch, None, None]:
        """Read these spans of a split; unless `may_skip`, every image must be decoded here."""
        return load_batches(
            split,
            spans,
            preprocess=self.preprocess,
            n_workers=self.n_workers,
            may_skip=may_skip and self.skip_undecodable,
            on_note=self.on_note,
        )

    @property
    def n_ahead(self) -> int:
        """Batches in flight beyond the one whose rows are taken."""
        return 0 if self.runner is None else self.runner.n_ahead

    def host_rows(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Make room for rows of this shape and storage type (numpy's name)."""
        room = torch.from_numpy(np.empty(shape, dtype))
        return room if self.runner is None else self.runner.host_rows(shape, room.dtype)

    def launch(self, split: Split, batch: Batch, out: Tensor) -> Landing:
        """Begin a batch, whose rows come into `out`; what comes back waits for them.

        Rows of unreadable images are zeros. Waiting raises NonFiniteError where the storage type
        cannot hold a row.
        """
        if self.runner is None:
            out.numpy()[...] = batch.images
            return lambda: None
        flight = self.runner.launch(batch.images, out=out, blank=list(batch.reasons))

        def land() -> None:
            flight.wait()
            ids = split.ids[batch.span.start : batch.span.stop]
            require_storable(flight.largest.numpy(), self.store_dtype, ids=ids)

        return land


def adapt(job: Job, writer: CacheWriter) -> None:
    """Give the backbone its adapted BatchNorm statistics: stored ones, else one pass over train.

    The order is a fixed permutation, since the batches of a folder sorted by class would each
    see one class; a short last batch is left out.
    """
    assert job.runner is not None, "pixels have no BatchNorm"
    module = job.runner.module
    shapes = {name: t.shape for name, t in batch_norm_statistics(module).items()}
    stored = writer.read_statistics()
    if stored is None:
        with job.runner.running():
            adapt_batch_norm(module, _adaptation_inputs(job))
        values = batch_norm_statistics(module).values()
        flat = torch.cat([v.flatten().float() for v in values]).numpy()
        writer.write_statistics(flat, job.numerics)
    else:
        parts = torch.from_numpy(stored.copy()).split([shape.numel() for shape in shapes.values()])
        statistics = {n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        load_batch_norm_statistics(module, statistics)
    if "compiler" in job.numerics:
        shape = image_shape(job.dataset.splits["train"], job.preprocess)
        try:  # the compiled one has the statistics of before
            compile_backbone(job.runner, shape, job.numerics["compiler"])
        except CompileError as err:
            raise DeviceError(
                f"{err} The statistics are kept, no rows are. Remove {writer.file} (featcache "
                f"cache rm) and run again with --compile never."
            ) from err


def _adaptation_inputs(job: Job) -> Iterator[torch.Tensor]:
    assert job.runner is not None, "pixels have no BatchNorm"
    train = job.dataset.splits["train"]
    order = np.random.default_rng(_ADAPT_SEED).permutation(len(train))
    shuffled = replace(train, images=train.images.take(order))
    size = min(_ADAPT_BATCH_SIZE, len(train))
    spans = [Span(i, i + size) for i in range(0, len(train) - size + 1, size)]
    # Statistics are of all images: what this machine cannot decode must not decide them.
    for batch in job.load(shuffled, spans, may_skip=False):
        readable = np.delete(batch.images, list(batch.reasons), axis=0)
        if len(readable) > 1:
            yield job.runner.inputs(readable)
        job.on_progress(Progress("adapt", "train", batch.span.stop, len(train)))


def check_canaries(job: Job, writer: CacheWriter) -> int:
    """Recompute the first batch of the first and the last acknowledged block.

    Returns:
        How many rows were compared.

    Raises:
        MismatchError: If they are not what is stored: bit for bit in the file's numeric class,
            within a tolerance in another.
    """
    done = writer.acknowledged()
    if not done:
        return 0
    n_rows = 0
    for block in {done[0], done[-1]}:
        split = job.dataset.splits[block.split]
        span = Span(block.start, min(block.start + job.batch_size, block.stop))
        with contextlib.closing(job.load(split, [span])) as batches:
            batch = next(batches)
        stored = writer.read_rows(block.split, span.start, span.stop)
        room = job.host_rows(stored.shape, stored.dtype.str)
        job.launch(split, batch, room)()
        fresh = room.numpy()
        # What a machine could not decode, another can.
        skipped = {i for i, r in batch.reasons.items() if r.startswith(NOT_DECODED_HERE)}
        skipped |= set(rows_not_decoded(writer, block.split, *span))
        fresh, stored = (np.delete(rows, sorted(skipped), axis=0) for rows in (fresh, stored))
        same_class = dict(job.numerics) == dict(writer.manifest.numerics)
        if not _agree(fresh, stored, exact=same_class and not writer.is_foreign(block), job=job):
            raise MismatchError(
                f"{writer.file} holds other features for {block.split} rows "
                f"{span.start} to {span.stop - 1} than this run computes, though all recorded "
                f"fields agree. Nothing was changed. Something unrecorded changed (a driver, a "
                f"library, on a GPU also how much memory is free): remove it (featcache cache rm "
                f"{shlex.quote(str(writer.file))}), run again."
            )
        n_rows += span.stop - span.start
    return n_rows


def rows_not_decoded(writer: CacheWriter, split: str, start: int, stop: int) -> list[int]:
    """List the rows of start..stop, counted from start, that a machine could not decode."""
    if "reason" not in writer.manifest.splits[split].columns:
        return []
    reasons = writer.read_rows(split, start, stop, column="reason")
    return [i for i, r in enumerate(reasons) if r.startswith(NOT_DECODED_HERE.encode())]


def _agree(fresh: npt.NDArray[Any], stored: npt.NDArray[Any], *, exact: bool, job: Job) -> bool:
    if exact or job.runner is None:
        return fresh.tobytes() == stored.tobytes()
    tolerance = feature_tolerance(job.runner.precision, job.store_dtype)
    allowed = tolerance * float(np.abs(stored).max(initial=0.0))
    difference = np.abs(fresh.astype(np.float64) - stored.astype(np.float64))
    return float(difference.max(initial=0.0)) <= allowed
