"""The rows that are nearest to others by the cosine of their features: exact, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from featcache.core.arithmetic import head_arithmetic
from featcache.core.plain_torch import plain_torch
from featcache.features.split import valid_rows
from featcache.heads.neighbours import highest
from featcache.heads.treatment import UnitLength
from featcache.insight.stored_rows import stored_rows
from featcache.store import Cache
from featcache.training.solvers.rows import RowsOfSplit, SolverRows

_CPU = torch.device("cpu")
_QUERY_VALUES = 64 << 20  # of queries at a time: 256 MB of float32
# Cosines are whole multiples of 2^-18. The rounding of float32 differs with the size of a block, by
# less than that: so equal rows have equal cosines, and stay in their order, whatever the blocks.
_STEPS = 2.0**18


@dataclass(frozen=True, eq=False)
class RowSet:
    """N rows of D features: of a cache, one split behind the other, or of an array.

    Attributes:
        rows: The rows, as they are stored.
        splits: The split of each part of `rows`; empty of an array.
    """

    rows: SolverRows
    splits: tuple[str, ...] = ()

    @classmethod
    def of_cache(cls, cache: Cache, *splits: str, device: torch.device = _CPU) -> RowSet:
        """Take the rows whose images could be read, of some splits or of all."""
        return cls.of_rows(
            cache, {name: valid_rows(cache[name]) for name in splits or cache}, device=device
        )

    @classmethod
    def of_rows(
        cls,
        cache: Cache,
        rows: Mapping[str, Tensor],
        *,
        device: torch.device = _CPU,
    ) -> RowSet:
        """Take the rows of these numbers, (n,) int64 by split, which hold features."""
        names = [name for name, index in rows.items() if len(index)]
        parts = [RowsOfSplit(stored_rows(cache, name, device), rows[name]) for name in names]
        return cls(SolverRows(tuple(parts), cache.n_features), tuple(names))

    @classmethod
    def of_features(cls, features: Tensor) -> RowSet:
        """Take (N, D) float features, such as those of a new image."""
        return cls(SolverRows.of_arrays(features, features.new_zeros(len(features)).long()))

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, position: int) -> tuple[str, int]:
        """Tell the split of one of the N rows, and its number there."""
        for split, part in zip(self.splits, self.rows.parts, strict=True):
            if position < len(part.index):
                return split, int(part.index[position])
            position -= len(part.index)
        raise IndexError("a position is one of the N rows")


@dataclass(frozen=True, eq=False)
class Nearest:
    """What is nearest to each of Q rows, the nearest first.

    Attributes:
        positions: (Q, k) int64, among the N rows that were looked through.
        cosines: (Q, k) float32, -1 to 1, in steps of 2^-18. That of a row of zeros is 0.
    """

    positions: Tensor
    cosines: Tensor


@plain_torch()
@torch.no_grad()
def nearest_rows(
    queries: RowSet,
    references: RowSet,
    k: int,
    *,
    are_same: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Nearest:
    """Find the k nearest of N rows to each of Q rows, by comparing each with each.

    Both sides are read in portions, so memory does not grow with them, but for the result. Of equal
    cosines the earlier row is nearer.

    Args:
        queries: Q rows.
        references: N rows of as many features, on the same device.
        k: How many; if there are fewer, all.
        are_same: Whether both are the same rows, so that none is its own neighbour.
        on_progress: Called with the queries that are done, and Q.
    """
    k = max(0, min(k, len(references) - are_same))
    positions = torch.zeros(len(queries), k, dtype=torch.int64)
    cosines = torch.zeros(len(queries), k)
    if not k or not len(queries):
        return Nearest(positions, cosines)
    asked, known = (one.rows.treated(UnitLength()) for one in (queries, references))

    def portions() -> Iterator[tuple[Tensor, Tensor]]:
        for part, rows in known.chunks():
            yield rows, torch.arange(part.start, part.stop, device=known.device)

    with head_arithmetic(str(asked.device)):
        for part, block in asked.chunks(n_values=_QUERY_VALUES):
            found, places = highest(block, portions, k + are_same, _products)
            if are_same:
                own = torch.arange(part.start, part.stop, device=known.device)
                found, places = _without(own, found, places)
            cosines[part], positions[part] = found.cpu().div_(_STEPS).clamp_(-1, 1), places.cpu()
            if on_progress is not None:
                on_progress(part.stop, len(queries))
    return Nearest(positions, cosines)


def _products(rows: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda queries: ((queries * _STEPS) @ rows.T).round_()


def _without(own: Tensor, found: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out each row itself, or the last, where more than k others are equal to it."""
    is_own = places == own[:, None]
    is_own[~is_own.any(1), -1] = True
    shape = len(places), places.shape[1] - 1
    return found[~is_own].view(shape), places[~is_own].view(shape)
