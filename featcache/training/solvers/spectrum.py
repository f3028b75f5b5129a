"""The main directions of features: the eigenvectors of their covariance, all or the largest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featcache.training.solvers.rows import SolverRows

MOST_EXACT = 2048
"""Features up to which all directions are found: 2,048 x 2,048 takes seconds."""
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


def spectrum_of(rows: SolverRows, mean: Tensor) -> Spectrum:
    """Find the directions: all up to 2,048 features, else the 128 largest by subspace iteration.

    The largest are as exact as three passes over the rows make them (Halko, Martinsson and Tropp
    2011); what is left out counts in `rest`. Exactness does not matter to whoever only wants to be
    quicker.

    Args:
        rows: N rows of D features.
        mean: (D,) float64, subtracted from each.
    """
    n_features = rows.n_features
    if n_features <= MOST_EXACT:
        covariance = torch.zeros(n_features, n_features, dtype=torch.float64, device=rows.device)
        for _, features in rows.chunks(torch.float64):
            centred = features - mean
            covariance.addmm_(centred.T, centred)
        variances, directions = torch.linalg.eigh(covariance / len(rows))
        return Spectrum(directions, variances.clamp(min=0), 0.0)
    n = min(_N_LARGEST, len(rows))
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(n_features, n, generator=generator).to(rows.device)
    total = 0.0
    for _ in range(_N_PASSES):
        basis = torch.linalg.qr(basis).Q
        image, total = torch.zeros_like(basis), 0.0
        for _, features in rows.chunks():
            centred = features - mean.float()
            image.addmm_(centred.T, centred @ basis)
            total += float(centred.square().sum(dtype=torch.float64))
        basis, image = image, basis
    inner = (image.double().T @ basis.double()) / len(rows)
    variances, turn = torch.linalg.eigh((inner + inner.T) / 2)
    rest = (total / len(rows) - float(variances.sum())) / max(1, n_features - n)
    directions = torch.linalg.qr(image.double() @ turn).Q
    return Spectrum(directions, variances.clamp(min=0), max(rest, 0.0))
