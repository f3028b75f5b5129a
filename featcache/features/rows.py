"""A split's features as tensors, or in the file: batches of them by row number."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.core.memory import large_empty
from featcache.core.preprocess import Preprocess
from featcache.core.stopping import stop_if_asked
from featcache.features.trainable import labels_of
from featcache.images.transform import BatchPreprocessor
from featcache.store import Cache, CacheSplit, require_classes, require_fields

_BYTES_PER_COPY = 64 << 20


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """One split of a cache, from which batches are taken by row number.

    Attributes:
        features: (N * V, D) float32 or float16, or (N, H, W, 3) uint8 pixels, on a GPU or in
            memory; without rows where these are read from the file.
        labels: (N,) int64 on `device`.
        device: Where batches come out.
        prepare: Turns pixels into the numbers of the notebook; None for features.
        n_views: V, the views of a row that were loaded; those of a row stand one behind the other.
    """

    features: Tensor
    labels: Tensor
    device: torch.device
    prepare: BatchPreprocessor | None
    n_views: int = 1

    def take(self, rows: Tensor, *, view: int = 0) -> tuple[Tensor, Tensor]:
        """Gather a batch of one view; 0 is the plain one.

        Args:
            rows: (B,) int64 row numbers; quickest where the features are.
            view: Below `n_views`.

        Returns:
            (B, D) float32 and (B,) int64 on `device`.
        """
        return self.pick(rows if self.n_views == 1 else rows * self.n_views + view)

    def pick(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Gather a batch as `take` does, by (B,) places: row * n_views + view."""
        batch = self.gather(places).to(self.device)
        rows = places if self.n_views == 1 else places // self.n_views
        labels = self.labels.index_select(0, rows.to(self.device))
        if self.prepare is not None:
            return self.prepare(batch).flatten(1), labels
        return batch.float(), labels

    def gather(self, places: Tensor) -> Tensor:
        """Copy features from where they are."""
        return self.features.index_select(0, places.to(self.features.device))


def load_rows(
    cache: Cache, split: str, *, device: torch.device, residence: str, n_views: int = 1
) -> FeatureRows:
    """Make one split of a cache ready for training.

    Args:
        cache: The cache.
        split: Its name.
        device: Where batches are wanted.
        residence: "gpu", "memory" or "file".
        n_views: How many views of each row to load: 1 is the plain one, else all that it has.

    Raises:
        CorruptError: If a label names no class.
    """
    rows = cache[split]
    if residence == "file":
        return RowsInFile(rows, *_beside(cache, split, device), n_views)
    resident = room_for(rows, device=device, residence=residence, n_views=n_views)
    read_rows(rows, 0, len(resident), resident, n_views=n_views)
    return resident_rows(cache, split, resident, device=device)


def resident_rows(
    cache: Cache, split: str, features: Tensor, *, device: torch.device
) -> FeatureRows:
    """Make features that are loaded ready for training; raises as `load_rows` does."""
    n_views = len(features) // len(cache[split])
    return FeatureRows(features, *_beside(cache, split, device), n_views)


def _beside(
    cache: Cache, split: str, device: torch.device
) -> tuple[Tensor, torch.device, BatchPreprocessor | None]:
    """Make what stands in FeatureRows beside the features."""
    require_labels(cache, split)
    labels = torch.from_numpy(labels_of(cache, split)).to(device)
    return labels, device, preprocessor_of(cache, split, device)


def require_usable_rows(cache: Cache) -> None:
    """Refuse a sound cache that cannot be trained on, before a run begins.

    That is one with a label that names no class, or pixels that do not say how they become numbers.

    Raises:
        CorruptError: Naming what is wrong.
    """
    n_inputs(cache)
    for split in cache.splits:
        require_labels(cache, split)


def require_labels(cache: Cache, split: str) -> None:
    """Refuse labels that name no class.

    Raises:
        CorruptError: If there are any.
        UsageError: If there are no labels.
    """
    labels_of(cache, split)
    require_classes(cache, split)


def preprocessor_of(cache: Cache, split: str, device: torch.device) -> BatchPreprocessor | None:
    """Make what turns stored pixels into numbers; None for features."""
    shape = cache[split].features.shape
    if cache[split].features.dtype != np.uint8:
        return None
    return BatchPreprocessor(preprocess_of(cache), (shape[1], shape[2]), device)


def n_inputs(cache: Cache) -> int:
    """Count the numbers that one row is for a head: D, or 3 * h * w for pixels once resized."""
    if next(iter(cache.splits.values())).features.dtype == np.uint8:
        return 3 * math.prod(preprocess_of(cache).out_size)
    return cache.n_features


def read_rows(rows: CacheSplit, start: int, stop: int, out: Tensor, *, n_views: int = 1) -> None:
    """Read the features start..stop into a tensor of their shape and type.

    They are those of rows, or with `n_views` those of places. Reads, not a mapping: of a file that
    became shorter these are an error, and no SIGBUS.

    Raises:
        CorruptError: If it did.
    """
    read = rows.read if n_views == 1 else rows.read_views
    n_rows = max(1, _BYTES_PER_COPY // max(1, rows.features.nbytes // max(1, len(rows))))
    for first in range(start, stop, n_rows):
        stop_if_asked()
        last = min(first + n_rows, stop)
        with rows_to_fill(out, first - start, last - start) as room:
            read(first, last, out=room)


@contextlib.contextmanager
def rows_to_fill(out: Tensor, start: int, stop: int) -> Iterator[npt.NDArray[Any]]:
    """Give memory for the rows start..stop of a tensor, which holds what was read there at the end.

    That is the tensor's own on a CPU, and pinned memory for a GPU. Out of that the copy goes on
    while other rows are read; torch's allocator hands it out again when the copy is done.
    """
    there = out[start:stop]
    if there.device.type == "cpu":
        yield there.numpy()
        return
    with torch.cuda.device(there.device):  # threads begin on the first
        room = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
        yield room.numpy()
        there.copy_(room, non_blocking=True)


def room_for(rows: CacheSplit, *, device: torch.device, residence: str, n_views: int = 1) -> Tensor:
    """Make an empty tensor for all features of a split, on the device or in memory."""
    none = _no_rows(rows)
    shape = (len(rows) * n_views, *none.shape[1:])
    return large_empty(shape, none.dtype, device if residence == "gpu" else torch.device("cpu"))


def _no_rows(rows: CacheSplit) -> Tensor:
    return torch.from_numpy(rows.read(0, 0))


class RowsInFile(FeatureRows):
    """Rows that stay in the file and are read as they are asked for."""

    def __init__(
        self,
        rows: CacheSplit,
        labels: Tensor,
        device: torch.device,
        prepare: BatchPreprocessor | None,
        n_views: int = 1,
    ) -> None:
        super().__init__(_no_rows(rows), labels, device, prepare, n_views)
        self.rows = rows

    def gather(self, places: Tensor) -> Tensor:
        """Read features, those that lie one behind the other in one go."""
        batch = torch.empty((len(places), *self.features.shape[1:]), dtype=self.features.dtype)
        ends = [*((places.diff() != 1).nonzero().flatten() + 1).tolist(), len(places)]
        start = 0
        for end in ends:
            first, part = int(places[start]), batch[start:end]
            read_rows(self.rows, first, first + len(part), part, n_views=self.n_views)
            start = end
        return batch


def preprocess_of(cache: Cache) -> Preprocess:
    """Read how pixels become numbers from the identity of a cache.

    Raises:
        CorruptError: If it does not say that.
    """
    require_fields(cache.path, cache.identity, "preprocess")
    return cache.identity.preprocess


def bn_mode(cache: Cache) -> str:
    """Read the BatchNorm mode from the identity of a cache: "frozen" or "adapted".

    Raises:
        CorruptError: If it does not say that.
    """
    require_fields(cache.path, cache.identity, "bn")
    return cache.identity.bn
