"""A job's backbone made ready, and held against the rows that a file has of it already."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featcache.backbones.batchnorm import (
    adapt_batch_norm,
    batch_norm_statistics,
    load_batch_norm_statistics,
)
from featcache.backbones.engines.trial import CompileError, compile_backbone
from featcache.core.reporting import NOT_DECODED_HERE
from featcache.core.tolerances import feature_tolerance
from featcache.errors import DeviceError, MismatchError
from featcache.extraction.job import Job
from featcache.extraction.plan import ADAPT_BATCH_SIZE, ADAPT_SEED
from featcache.extraction.progress import Progress
from featcache.images.batches import Span
from featcache.store import CacheWriter


def adapt(job: Job, writer: CacheWriter) -> None:
    """Give the backbone its adapted BatchNorm statistics: stored ones, else one pass over train."""
    assert job.runner is not None, "only a network has BatchNorm"
    stored = writer.read_statistics()
    if stored is None:
        writer.write_statistics(adapted_statistics(job), job.numerics)
    else:
        statistics = {name: torch.from_numpy(values.copy()) for name, values in stored.items()}
        load_batch_norm_statistics(job.runner.module, statistics)
    if job.numerics.compiler is not None:
        shape = job.plan.image_shape
        try:  # the compiled one has the statistics of before
            compile_backbone(job.runner, shape, job.numerics.compiler)
        except CompileError as err:
            raise DeviceError(
                f"{err} The statistics are kept; no rows were computed. Remove the file (featcache "
                f"cache rm {shlex.quote(str(writer.file))}) and run again with --compile never."
            ) from err


def adapted_statistics(job: Job) -> npt.NDArray[np.float32]:
    """Adapt the backbone by one pass over train; give its statistics, one after the other.

    The order is a fixed permutation, since the batches of a folder sorted by class would each
    see one class; a short last batch is left out.
    """
    assert job.runner is not None, "only a network has BatchNorm"
    module = job.runner.module
    with job.runner.running():
        adapt_batch_norm(module, _adaptation_inputs(job))
    values = batch_norm_statistics(module).values()
    return torch.cat([v.flatten().float() for v in values]).numpy()


def _adaptation_inputs(job: Job) -> Iterator[torch.Tensor]:
    assert job.runner is not None, "only a network has BatchNorm"
    train = next(iter(job.plan.dataset.splits.values()))  # or "all", where there is no "train"
    order = np.random.default_rng(ADAPT_SEED).permutation(len(train))
    shuffled = replace(train, images=train.images.take(order))
    size = min(ADAPT_BATCH_SIZE, len(train))
    spans = [Span(i, i + size) for i in range(0, len(train) - size + 1, size)]
    # Statistics are of all images: what this machine cannot decode must not decide them.
    for batch in job.load(shuffled, spans, may_skip=False, only_plain=True):
        readable = np.delete(batch.images, list(batch.reasons), axis=0)
        if len(readable) > 1:
            yield job.runner.inputs(readable)
        job.on_progress(Progress("adapt", train.name, batch.span.stop, len(train)))


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
        split = job.plan.dataset.splits[block.split]
        span = Span(block.start, min(block.start + job.batch_size, block.stop))
        stored = writer.read_rows(block.split, span.start, span.stop)
        n_views = job.plan.views.n_of(block.split)
        room = job.host_rows((n_views, len(stored), *job.plan.row_shape), stored.dtype.str)
        # What a machine could not decode, another can.
        skipped = set(rows_not_decoded(writer, block.split, *span))
        with contextlib.closing(job.load(split, [span])) as batches:
            for batch in batches:
                job.launch(split, batch, room[batch.view]).rows()
                skipped |= {i for i, r in batch.reasons.items() if r.startswith(NOT_DECODED_HERE)}
        fresh = room.transpose(0, 1).numpy().reshape(stored.shape)
        fresh, stored = (np.delete(rows, sorted(skipped), axis=0) for rows in (fresh, stored))
        same_class = job.numerics == writer.manifest.numerics
        if not _agree(fresh, stored, exact=same_class and not writer.is_foreign(block), job=job):
            raise MismatchError(
                f"{writer.file} holds other features for {block.split} rows "
                f"{span.start} to {span.stop - 1} than this run computes, though all recorded "
                f"fields agree. Nothing was changed. Something unrecorded changed (a driver, a "
                f"library, on a GPU also how much memory is free): remove this file (featcache "
                f"cache rm {shlex.quote(str(writer.file))}) and run again."
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
    tolerance = feature_tolerance(job.runner.precision, job.plan.store_dtype)
    allowed = tolerance * float(np.abs(stored).max(initial=0.0))
    difference = np.abs(fresh.astype(np.float64) - stored.astype(np.float64))
    return float(difference.max(initial=0.0)) <= allowed
