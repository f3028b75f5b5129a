"""The images of a cache that could be read, numbered through all splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.insight.audit.result import AuditedImage
from featcache.insight.nearest import RowSet
from featcache.store import Cache

NumbersOfRows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AuditedRows:
    """N images of a cache, those of one split behind those of another.

    Attributes:
        cache: The cache.
        of_split: The rows of each split that hold features, (n,) int64 ascending; no split is
            empty.
    """

    cache: Cache
    of_split: Mapping[str, NumbersOfRows]

    @classmethod
    def of_cache(cls, cache: Cache) -> AuditedRows:
        """Take all rows that hold features."""
        found = {name: np.flatnonzero(cache[name].valid) for name in cache}
        return cls(cache, {name: rows for name, rows in found.items() if len(rows)})

    def __len__(self) -> int:
        return sum(map(len, self.of_split.values()))

    @cached_property
    def numbers(self) -> Mapping[str, range]:
        """The numbers of the images of each split."""
        found, start = {}, 0
        for name, rows in self.of_split.items():
            found[name] = range(start, start + len(rows))
            start += len(rows)
        return found

    @cached_property
    def split_of(self) -> NumbersOfRows:
        """Which split each is of, (N,), by its place in `of_split`."""
        return np.repeat(np.arange(len(self.of_split)), [*map(len, self.of_split.values())])

    @cached_property
    def labels(self) -> NumbersOfRows | None:
        """Their classes, (N,); None if the images have no labels."""
        found = []
        for name, rows in self.of_split.items():
            labels = self.cache[name].labels
            if labels is None:
                return None
            found.append(labels[rows])
        return np.concatenate(found) if found else None

    def by_split(
        self, numbers: NumbersOfRows
    ) -> Iterator[tuple[str, NumbersOfRows, NumbersOfRows]]:
        """Part some numbers, ascending, by split: its name, where they are, and their rows."""
        for name, own in self.numbers.items():
            start, stop = np.searchsorted(numbers, (own.start, own.stop))
            if start < stop:
                rows = self.of_split[name][numbers[start:stop] - own.start]
                yield name, np.arange(start, stop), rows

    def features(self, numbers: NumbersOfRows, device: torch.device) -> RowSet:
        """Take the features of some of them, whose numbers ascend."""
        rows: dict[str, Tensor] = {
            name: torch.from_numpy(rows) for name, _, rows in self.by_split(numbers)
        }
        return RowSet.of_rows(self.cache, rows, device=device)

    def image(self, number: int) -> AuditedImage:
        """Describe one of them."""
        name, own = next((n, own) for n, own in self.numbers.items() if number in own)
        return audited_image(self.cache, name, int(self.of_split[name][number - own.start]))


def audited_image(cache: Cache, split: str, row: int) -> AuditedImage:
    """Describe the image of a row."""
    labels = cache[split].labels
    label = "" if labels is None else cache.class_names[labels[row]]
    return AuditedImage(split, row, cache[split].ids[row], label)
