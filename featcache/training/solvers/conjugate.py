"""(covariance * scale + ridge) W = B for features too many for a matrix of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from featcache.training.solvers.centred import CentredRows
from featcache.training.solvers.spectrum import MOST_EXACT, spectrum_of
from featcache.training.solvers.steps import OnStep

_MOST_STEPS = 500
_TOLERANCE = 1e-6  # of the right-hand side's length; float32 products allow no more


def solve(
    rows: CentredRows,
    right: Tensor,
    *,
    scale: float,
    ridge: float,
    on_step: OnStep | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Solve for (K, D) right-hand sides: by a Cholesky factor up to 2,048 features, else by CG.

    Conjugate gradients (Hestenes and Stiefel 1952) take one pass over the rows a step, for all
    right-hand sides; the largest directions of the features are their preconditioner.

    Args:
        rows: N centred rows, whose covariance it is.
        right: (K, D) float64.
        scale: Of the covariance.
        ridge: Added to its diagonal, above 0.
        on_step: Called after each step of conjugate gradients.

    Returns:
        (K, D) float64; and of conjugate gradients, as a head keeps it, whether they "converged" to
        1e-6 of the right-hand sides. A factor has no steps.
    """
    if rows.rows.n_features <= MOST_EXACT:
        matrix = rows.covariance() * scale
        matrix.diagonal().add_(ridge)
        factor = torch.linalg.cholesky(matrix)
        return torch.cholesky_solve(right.T.contiguous(), factor).T.contiguous(), {}
    found, converged = _conjugate(rows, right, scale, ridge, on_step)
    return found, {"converged": converged}


def _conjugate(
    rows: CentredRows, right: Tensor, scale: float, ridge: float, on_step: OnStep | None
) -> tuple[Tensor, bool]:
    scales = right.new_full((1, len(right)), scale)
    ridges = right.new_full((1,), ridge)
    rows = rows.kept(torch.float32)  # each step reads them all
    spectrum = spectrum_of(rows)

    def precondition(vectors: Tensor) -> Tensor:
        return spectrum.solve(vectors[None], scales, ridges)[0]

    found, residual = torch.zeros_like(right), right.clone()
    near = precondition(residual)
    direction, product = near.clone(), torch.linalg.vecdot(residual, near)
    enough = _TOLERANCE * torch.linalg.vector_norm(right, dim=1)
    for n_steps in range(_MOST_STEPS + 1):
        is_done = torch.linalg.vector_norm(residual, dim=1) <= enough
        n_left = len(right) - int(is_done.sum())  # what became no number is not done
        if n_steps and on_step is not None:
            on_step(n_steps, _MOST_STEPS, n_left)
        if n_left == 0 or n_steps == _MOST_STEPS:
            break
        image = rows.covariance_times(direction.T).T * scale + direction * ridge
        length = product / torch.linalg.vecdot(direction, image).clamp(min=1e-300)
        found += length[:, None] * direction
        residual -= length[:, None] * image
        near = precondition(residual)
        last, product = product, torch.linalg.vecdot(residual, near)
        direction = near + (product / last.clamp(min=1e-300))[:, None] * direction
    return found, n_left == 0
