"""The order of training rows: all of them shuffled together, or windows of the file.

Which of the two it is, `residence` chooses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


class EpochOrder:
    """The order of the training rows in each epoch: a permutation by seed and epoch alone.

    Lightning calls `set_epoch` before each epoch, as it does for a DistributedSampler.
    """

    def __init__(self, index: Tensor, *, seed: int, window_rows: int | None = None) -> None:
        """Take the row numbers to be permuted, (n,) int64.

        With `window_rows`, windows of so many rows of the file come in random order, and the rows
        of each in random order.
        """
        self.index = index
        self.seed = seed
        self.window_rows = window_rows
        self.epoch = 0

    @property
    def n_windows(self) -> int:
        """How many windows there are; 1 where all rows are shuffled together."""
        return 1 if self.window_rows is None else len(windows_of(self.index, self.window_rows))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def places(self, n_views: int, n_rows: int) -> Tensor:
        """Draw the order with a view for each row, (n,) int64: view v of row i is i * n_views + v.

        A row's view follows from the seed, the epoch and the row's number alone. So it is the same
        in every order, and for all heads that share the batches.

        Args:
            n_views: Views of each row; of one there is nothing to draw.
            n_rows: Rows of the split, all of them.
        """
        order = self.order()
        if n_views == 1:
            return order
        generator = torch.Generator().manual_seed(stream_seed("view", self.seed, self.epoch))
        views = torch.randint(n_views, (n_rows,), generator=generator)
        return order * n_views + views[order]

    def order(self) -> Tensor:
        """Draw the order of the chosen epoch, (n,) int64."""
        generator = torch.Generator().manual_seed(stream_seed("order", self.seed, self.epoch))
        if self.window_rows is None:
            return self.index[torch.randperm(len(self.index), generator=generator)]
        windows = windows_of(self.index, self.window_rows)
        shuffled = []
        for i in torch.randperm(len(windows), generator=generator).tolist():
            window = windows[i]
            shuffled.append(window[torch.randperm(len(window), generator=generator)])
        return torch.cat(shuffled)


def stream_seed(stream: str, seed: int, epoch: int) -> int:
    """Derive the seed of one epoch's random stream: a resumed run draws what it would have."""
    digest = hashlib.sha256(f"{stream} {seed} {epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


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
