"""The main directions of features: the eigenvectors of their covariance, all or the largest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featcache.training.solvers.centred import CentredRows

MOST_EXACT = 2048
"""Features, or rows, up to which matrices of that many rows and columns are decomposed: seconds."""
_N_LARGEST = 128
_N_PASSES = 3


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Directions in which features vary, and by how much.

    Attributes:
        directions: (D, r) float64, orthonormal.
        variances: (r,) float64 along them.
        rest: Mean variance along all others; 0 if there are none.
    """

    directions: Tensor
    variances: Tensor
    rest: float

    def solve(self, vectors: Tensor, scale: Tensor, ridge: Tensor) -> Tensor:
        """Multiply by the inverse of scale * covariance + ridge, as far as that is known.

        Args:
            vectors: (A, K, D) float64.
            scale: (A, K).
            ridge: (A,), above 0.

        Returns:
            (A, K, D).
        """
        along = vectors @ self.directions
        of_rest = (scale * self.rest + ridge[:, None])[:, :, None]
        of_each = scale[:, :, None] * self.variances + ridge[:, None, None]
        return vectors / of_rest + (along / of_each - along / of_rest) @ self.directions.T


def spectrum_of(rows: CentredRows) -> Spectrum:
    """Find the directions: all up to 2,048 features, else the 128 largest by subspace iteration.

    The largest are as exact as three passes over the rows make them (Halko, Martinsson and Tropp
    2011), and the others count in `rest`: enough to be quicker by it.
    """
    n_features = rows.rows.n_features
    if n_features <= MOST_EXACT:
        variances, directions = torch.linalg.eigh(rows.covariance())
        return Spectrum(directions, variances.clamp(min=0), 0.0)
    n = min(_N_LARGEST, len(rows))
    basis = random_signs(n_features, n).to(rows.rows.device)
    for _ in range(_N_PASSES - 1):
        basis = torch.linalg.qr(rows.covariance_times(basis)).Q
    inner = basis.T @ rows.covariance_times(basis)
    variances, turn = torch.linalg.eigh((inner + inner.T) / 2)
    total = sum(float(f.square().sum(dtype=torch.float64)) for _, f in rows.chunks(torch.float32))
    rest = (total / len(rows) - float(variances.sum())) / (n_features - n)
    return Spectrum(basis @ turn, variances.clamp(min=0), max(rest, 0.0))


def random_signs(n_rows: int, n_columns: int) -> Tensor:
    """Draw 1 and -1, the same for the same shape: (rows, columns) float64."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 2, (n_rows, n_columns), generator=generator)
    return drawn.double().mul_(2).sub_(1)
