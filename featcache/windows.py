"""Features that do not fit into memory: read in windows of the file, shuffled within each."""

from __future__ import annotations

import torch
from torch import Tensor

from featcache.errors import UsageError
from featcache.features import FeatureRows, mapped_rows
from featcache.pixels import BatchPreprocessor
from featcache.store import Cache, CacheSplit, human_bytes

_FEWEST_BATCHES = 16


def window_rows(cache: Cache, *, split: str, batch_size: int, max_bytes: int) -> int | None:
    """Choose how many rows of a split are shuffled together; None if all of them fit.

    Args:
        cache: The cache.
        split: The split that trains.
        batch_size: Rows in one step.
        max_bytes: Memory for features.

    Raises:
        UsageError: If there is room for fewer than 16 batches.
    """
    features = cache[split].features
    if sum(rows.features.nbytes for rows in cache.splits.values()) <= max_bytes:
        return None
    row_bytes = features.nbytes // max(1, len(features))
    n_rows = max_bytes // row_bytes
    fewest = _FEWEST_BATCHES * batch_size
    if n_rows < fewest:
        needed_kb = -(-fewest * row_bytes // 1000)
        raise UsageError(
            f"--max-memory has room for {n_rows} rows of {human_bytes(row_bytes)}, but shuffling "
            f"within fewer than {_FEWEST_BATCHES} batches would not be shuffling. Nothing was "
            f"started. Give at least {needed_kb}kB, or a smaller --batch-size."
        )
    return int(n_rows)


def windows_of(rows: Tensor, n: int) -> tuple[Tensor, ...]:
    """Divide row numbers into windows that lie one behind the other in the file.

    Args:
        rows: (N,) int64, in any order.
        n: Rows of the file in each.

    Returns:
        The rows of each window, ascending; windows without any are left out.
    """
    ordered = rows.sort().values
    counts = torch.bincount(ordered // n).tolist()
    return tuple(part for part in ordered.split(counts) if len(part))


class WindowedRows(FeatureRows):
    """Rows of a mapped split, of which one window at a time is in memory.

    Batches must come in an order that `EpochOrder` made with the same window, so that each window
    is read once an epoch, from its first byte to its last.
    """

    def __init__(
        self,
        rows: CacheSplit,
        labels: Tensor,
        *,
        n: int,
        device: torch.device,
        prepare: BatchPreprocessor | None,
    ) -> None:
        """Take a split and how many of its rows make a window."""
        super().__init__(mapped_rows(rows), labels, device, prepare)
        self.n = n
        self._window = torch.empty(0)
        self._number = -1

    def gather(self, rows: Tensor) -> Tensor:
        """Copy rows out of the window in memory, and read the next one where it is needed."""
        numbers = rows // self.n
        batch = torch.empty((len(rows), *self.features.shape[1:]), dtype=self.features.dtype)
        for number in sorted(numbers.unique().tolist(), key=lambda i: i != self._number):
            if number != self._number:
                self._read(number)
            chosen = numbers == number
            batch[chosen] = self._window.index_select(0, rows[chosen] - number * self.n)
        return batch

    def _read(self, number: int) -> None:
        self._window = torch.empty(0)  # never two windows at a time
        self._window = self.features[number * self.n : (number + 1) * self.n].clone()
        self._number = number
