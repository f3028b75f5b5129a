"""Rows of a cache as they are stored: features, or pixels at their own size."""

from __future__ import annotations

import torch
from torch import Tensor

from featcache.features.rows import RowsInFile, require_labels
from featcache.store import Cache


class StoredRows(RowsInFile):
    """A split whose pixels are taken as they are stored, as numbers of -1 to 1.

    A head sees pixels at the size that enters the notebook's network, 150,528 numbers of 3,072.
    Those say nothing more, and would make of seconds minutes.
    """

    def pick(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Read rows from the file, their plain view; (B, D) float32 and (B,) int64 on `device`."""
        found = self.gather(places).to(self.device)
        labels = self.labels.index_select(0, places.to(self.device))
        if found.dtype == torch.uint8:
            return found.flatten(1).float().div_(127.5).sub_(1), labels
        return found.float(), labels


def stored_rows(cache: Cache, split: str, device: torch.device) -> StoredRows:
    """Make the rows of a split ready to be read from the file.

    Args:
        cache: The cache.
        split: Its name.
        device: Where rows come out.

    Raises:
        CorruptError: If a label names no class. Images without labels have the label 0.
    """
    labels = cache[split].labels
    if labels is None:
        return StoredRows(
            cache[split], torch.zeros(len(cache[split]), dtype=torch.int64), device, None
        )
    require_labels(cache, split)
    return StoredRows(cache[split], torch.from_numpy(labels).to(device), device, None)
