"""Rows less the mean of all, or of their class, and what their covariance does to vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from featcache.training.solvers.rows import SolverRows


@dataclass(frozen=True, eq=False)
class CentredRows:
    """N rows of D features, each less the mean of its group.

    Attributes:
        rows: The rows.
        means: (G, D) float64.
        groups: (N,) int64.
    """

    rows: SolverRows
    means: Tensor
    groups: Tensor

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

    def chunks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Give the centred rows in portions, as slices of 0..N and (B, D)."""
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
