"""The rows of several splits as those of one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from featcache.features.residence import views_to_load
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
            first.features,
            torch.cat([p.labels for p in parts]),
            first.device,
            first.prepare,
            max(part.n_views for part in parts),
        )
        self.parts = parts
        self.starts = list(accumulate((len(p.labels) for p in parts), initial=0))

    def gather(self, places: Tensor) -> Tensor:
        """Copy features, in the order of their places, from where their splits are.

        Of a split that has fewer views than another, they are taken again from the first one on.
        """
        where = self.features.device
        batch = torch.empty(
            (len(places), *self.features.shape[1:]), dtype=self.features.dtype, device=where
        )
        places = places.to(where)
        rows, views = places // self.n_views, places % self.n_views
        for part, start, stop in zip(self.parts, self.starts, self.starts[1:], strict=False):
            own = (rows >= start) & (rows < stop)
            its_views = views[own] % part.n_views
            batch[own] = part.gather((rows[own] - start) * part.n_views + its_views)
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
        else load_rows(
            cache,
            split,
            device=resident.device,
            residence="file",
            n_views=views_to_load(cache, split, draws_views=resident.draws_views),
        )
        for split in splits
    ]
    is_valid = torch.cat([torch.from_numpy(cache[split].valid) for split in splits])
    rows = parts[0] if len(parts) == 1 else JoinedRows(parts)
    return rows, is_valid.nonzero().flatten()
