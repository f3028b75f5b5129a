"""Features that do not fit into memory: read in windows of the file, shuffled within each."""

from __future__ import annotations

import torch
from torch import Tensor

from featcache.features.rows import RowsInFile, read_rows
from featcache.images.transform import BatchPreprocessor
from featcache.store import CacheSplit


class WindowedRows(RowsInFile):
    """Rows of a split, of which one window at a time is in memory.

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
        n_views: int = 1,
    ) -> None:
        """Take a split and how many of its rows make a window."""
        super().__init__(rows, labels, device, prepare, n_views)
        self.n = n * n_views
        self._window = torch.empty(0)
        self._number = -1

    def gather(self, places: Tensor) -> Tensor:
        """Copy features out of the window in memory, and read the next one where it is needed."""
        numbers = places // self.n
        batch = torch.empty((len(places), *self.features.shape[1:]), dtype=self.features.dtype)
        for number in sorted(numbers.unique().tolist(), key=lambda i: i != self._number):
            if number != self._number:
                self._read(number)
            chosen = numbers == number
            batch[chosen] = self._window.index_select(0, places[chosen] - number * self.n)
        return batch

    def _read(self, number: int) -> None:
        self._window = torch.empty(0)  # never two windows at a time
        end = len(self.rows) * self.n_views
        start, stop = number * self.n, min((number + 1) * self.n, end)
        window = torch.empty((stop - start, *self.features.shape[1:]), dtype=self.features.dtype)
        read_rows(self.rows, start, stop, window, n_views=self.n_views)
        self._window = window
        self._number = number
