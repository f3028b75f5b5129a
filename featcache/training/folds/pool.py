"""The rows of several splits as those of one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from featcache.features.resident import Resident
from featcache.features.rows import FeatureRows, load_rows
from featcache.store import Cache

POOLED = ("train", "val")


class JoinedRows(FeatureRows):
    """Rows of several splits, numbered one split behind the other; they stay where they are."""

    def __init__(self, parts: Sequence[FeatureRows]) -> None:
        """Take splits of one cache, on one device."""
        first = parts[0]
        super().__init__(
            first.features, torch.cat([p.labels for p in parts]), first.device, first.prepare
        )
        self.parts = parts
        self.starts = list(accumulate((len(p.labels) for p in parts), initial=0))

    def gather(self, rows: Tensor) -> Tensor:
        """Copy rows, in the order of their numbers, from where their splits are."""
        where = self.features.device
        batch = torch.empty(
            (len(rows), *self.features.shape[1:]), dtype=self.features.dtype, device=where
        )
        rows = rows.to(where)
        for part, start, stop in zip(self.parts, self.starts, self.starts[1:], strict=False):
            own = (rows >= start) & (rows < stop)
            batch[own] = part.gather(rows[own] - start)
        return batch


def pooled_rows(cache: Cache, resident: Resident) -> tuple[FeatureRows, Tensor]:
    """Join the rows that are not of the split "test".

    Args:
        cache: The cache, which was verified.
        resident: What is loaded of it.

    Returns:
        The rows, and (N,) the numbers of those whose images could be read.
    """
    splits = [split for split in POOLED if split in cache.splits]
    parts = [
        resident.rows[split]
        if split in resident.rows
        else load_rows(cache, split, device=resident.device, residence="file")
        for split in splits
    ]
    is_valid = torch.cat([torch.from_numpy(cache[split].valid) for split in splits])
    rows = parts[0] if len(parts) == 1 else JoinedRows(parts)
    return rows, is_valid.nonzero().flatten()
