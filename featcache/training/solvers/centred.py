"""Rows less the mean of all, or of their class, and what their covariance does to vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featcache.core.memory import free_memory, large_empty
from featcache.core.stopping import stop_if_asked
from featcache.training.solvers.rows import SolverRows


@dataclass(frozen=True, eq=False)
class CentredRows:
    """N rows of D features, each less the mean of its group.

    Attributes:
        rows: The rows.
        means: (G, D) float64.
        groups: (N,) int64.
        portions: All of them, if they stay in memory, as `chunks` gives them.
    """

    rows: SolverRows
    means: Tensor
    groups: Tensor
    portions: Sequence[tuple[slice, Tensor]] = ()

    @classmethod
    def by_mean(cls, rows: SolverRows) -> CentredRows:
        """Subtract the mean of all rows."""
        return cls(rows, rows.mean()[None], torch.zeros_like(rows.labels))

    @classmethod
    def by_class(cls, rows: SolverRows, n_classes: int) -> CentredRows:
        """Subtract from each row the mean of its class."""
        return cls(rows, class_means(rows, n_classes), rows.labels)

    def __len__(self) -> int:
        return len(self.rows)

    def kept(self, dtype: torch.dtype) -> CentredRows:
        """Give the same rows with a copy in memory, if half of what is free holds it.

        The copy serves `chunks` of this type. Rows that stay in the file get none: --max-memory may
        be why they do.
        """
        shape = (len(self), self.rows.n_features)
        n_bytes = math.prod(shape) * dtype.itemsize
        free = free_memory(str(self.rows.device)).n_bytes
        if self.rows.are_in_file or n_bytes > free // 2:
            return self
        room = large_empty(shape, dtype, self.rows.device)
        portions = []
        for part, features in self.chunks(dtype):
            room[part] = features
            portions.append((part, room[part]))
        return replace(self, portions=portions)

    def chunks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Give the centred rows in portions, as slices of 0..N and (B, D); do not change them."""
        if self.portions and self.portions[0][1].dtype == dtype:
            for part, features in self.portions:
                stop_if_asked()
                yield part, features
            return
        means = self.means.to(dtype)
        for part, features in self.rows.chunks(dtype):
            # They are ours: copies of what they were taken from.
            yield part, features.sub_(means[0] if len(means) == 1 else means[self.groups[part]])

    def covariance(self) -> Tensor:
        """Compute the (D, D) float64 covariance."""
        n_features = self.rows.n_features
        total = self.means.new_zeros(n_features, n_features)
        for _, features in self.chunks(torch.float64):
            total.addmm_(features.T, features)
        return total / len(self)

    def covariance_times(self, vectors: Tensor) -> Tensor:
        """Multiply the covariance by (D, k) vectors, float32 products in float64 sums: (D, k)."""
        total = torch.zeros_like(vectors, dtype=torch.float64)
        narrow = vectors.float()
        for _, features in self.chunks(torch.float32):
            total += features.T @ (features @ narrow)
        return total / len(self)


def class_means(rows: SolverRows, n_classes: int) -> Tensor:
    """Average the rows of each class, each of which has one: (K, D) float64."""
    labels = rows.labels
    total = torch.zeros(n_classes, rows.n_features, dtype=torch.float64, device=rows.device)
    for part, features in rows.chunks(torch.float64):
        total.index_add_(0, labels[part], features)
    counts = torch.bincount(labels, minlength=n_classes).double()
    return total / counts[:, None]
