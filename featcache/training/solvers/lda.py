"""Linear discriminant analysis with a covariance that is shrunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from featcache.config import SolverSpec
from featcache.training.solvers.centred import CentredRows
from featcache.training.solvers.conjugate import solve
from featcache.training.solvers.linear import LinearFit, OneLinearFit
from featcache.training.solvers.rows import SolverRows
from featcache.training.solvers.spectrum import MOST_EXACT, random_signs
from featcache.training.solvers.steps import OnStep

_N_DIRECTIONS = 256


class LinearDiscriminant(OneLinearFit):
    """Normal distributions of one shrunk covariance."""

    needs_every_class = True
    has_scores = False

    def fit(
        self, rows: SolverRows, spec: SolverSpec, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[LinearFit]:
        """Fit them."""
        return [fit_discriminant(rows, n_classes=n_classes, on_step=on_step)]


def fit_discriminant(
    rows: SolverRows, *, n_classes: int, on_step: OnStep | None = None
) -> LinearFit:
    """Fit normal distributions of one covariance to the classes.

    The covariance is (1 - s) times that within classes, plus s times its mean variance on the
    diagonal, with the s of Ledoit and Wolf (A well-conditioned estimator for large-dimensional
    covariance matrices, 2004). Of more than 2,048 features its one sum over all pairs of them is
    estimated from 256 fixed directions.

    Args:
        rows: N treated rows; each of the K classes has one.
        n_classes: K.
        on_step: Called after each step of conjugate gradients.

    Returns:
        The fit, whose softmax is the probability; `found` has "shrinkage" and, where it was solved
        in steps, "converged".
    """
    within = CentredRows.by_class(rows, n_classes)
    shrinkage, variance = ledoit_wolf(within)
    ridge = max(shrinkage * variance, 1e-12 * variance) or 1.0
    weight, told = solve(within, within.means, scale=1 - shrinkage, ridge=ridge, on_step=on_step)
    shares = torch.bincount(rows.labels, minlength=n_classes).double() / len(rows)
    bias = shares.log() - 0.5 * torch.linalg.vecdot(weight, within.means)
    return LinearFit(weight, bias, {"shrinkage": shrinkage, **told})


def ledoit_wolf(rows: CentredRows) -> tuple[float, float]:
    """Compute the share by which a covariance is shrunk, and its mean variance.

    Args:
        rows: N centred rows.
    """
    n, n_features = len(rows), rows.rows.n_features
    trace = fourth = 0.0
    for _, features in rows.chunks(torch.float64):
        of_rows = features.square().sum(1)
        trace += float(of_rows.sum()) / n
        fourth += float(of_rows.square().sum()) / n
    if n_features <= MOST_EXACT:
        square = float(rows.covariance().square().sum())
    else:  # E |S z|^2 = |S|^2 for random signs z (Hutchinson 1990)
        signs = random_signs(n_features, _N_DIRECTIONS).to(rows.rows.device)
        square = float(rows.covariance_times(signs).square().sum()) / _N_DIRECTIONS
    variance = trace / n_features
    away = square / n_features - variance**2
    noise = min((fourth - square) / (n_features * n), away)
    return (noise / away if away > 0 else 1.0), variance
