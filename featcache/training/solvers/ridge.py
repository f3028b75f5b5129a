"""Ridge regression to 1 for a row's class and -1 for the others; its strength by leave-one-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from featcache.config import SolverSpec
from featcache.training.solvers.centred import CentredRows
from featcache.training.solvers.conjugate import solve
from featcache.training.solvers.linear import LinearFit, OneLinearFit
from featcache.training.solvers.rows import RowsOfSplit, SolverRows
from featcache.training.solvers.spectrum import MOST_EXACT
from featcache.training.solvers.steps import OnStep

_POWERS = range(-8, 5)  # of ten, times the mean eigenvalue of X'X


class Ridge(OneLinearFit):
    """Least squares, with the alpha of the least leave-one-out error."""

    needs_every_class = False
    has_scores = True

    def fit(
        self, rows: SolverRows, spec: SolverSpec, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[LinearFit]:
        """Choose alpha, and fit with it."""
        return [fit_ridge(rows, n_classes=n_classes, on_step=on_step)]


def fit_ridge(
    rows: SolverRows,
    *,
    n_classes: int,
    alphas: Sequence[float] | None = None,
    on_step: OnStep | None = None,
) -> LinearFit:
    """Minimise |Y - X W' - b|^2 + alpha |W|^2, with the alpha of the least leave-one-out error.

    The error is the mean square over rows and classes, as RidgeClassifierCV's of scikit-learn. It
    is exact, of one decomposition for all alphas. Where both rows and features are more than 2,048,
    it is that of 2,048 rows, evenly spaced: the best alpha is the ratio of the noise to the prior
    variance of W, which does not depend on the number of rows.

    Args:
        rows: N treated rows.
        n_classes: K.
        alphas: To choose from, ascending; None is 13 decades around the size of the features.
        on_step: Called after each step of conjugate gradients.

    Returns:
        The fit; `found` has "alpha", "alpha_is_at_end" (whether it is the least or largest) and,
        where it was solved in steps, "converged".
    """
    judged = rows if min(len(rows), rows.n_features) <= MOST_EXACT else _spaced(rows, MOST_EXACT)
    errors, tried = _leave_one_out(CentredRows.by_mean(judged), n_classes, alphas)
    chosen = int(errors.argmin())
    alpha = float(tried[chosen])
    centred = CentredRows.by_mean(rows)
    targets = _targets(rows.labels, n_classes)
    mean = targets.mean(0)
    right = torch.zeros(n_classes, rows.n_features, dtype=torch.float64, device=rows.device)
    for part, features in centred.chunks(torch.float64):
        right += (targets[part] - mean).T @ features
    weight, told = solve(
        centred, right / len(rows), scale=1.0, ridge=alpha / len(rows), on_step=on_step
    )
    is_end = chosen in (0, len(tried) - 1)
    found = {"alpha": alpha, "alpha_is_at_end": is_end, **told}
    return LinearFit(weight, mean - weight @ centred.means[0], found)


def _leave_one_out(
    rows: CentredRows, n_classes: int, alphas: Sequence[float] | None
) -> tuple[Tensor, Tensor]:
    """Compute the leave-one-out errors of all alphas, (M,), and the alphas."""
    directions, squares = _decomposed(rows)
    if alphas is None:
        size = float(squares.mean()) if len(squares) else 1.0  # no feature varies
        alphas = [size * 10.0**power for power in _POWERS]
    tried = torch.tensor(alphas, dtype=torch.float64, device=squares.device)
    targets = _targets(rows.rows.labels, n_classes)
    targets -= targets.mean(0)
    right = torch.zeros(len(squares), n_classes, dtype=torch.float64, device=squares.device)
    for part, features in rows.chunks(torch.float64):
        right += (features @ directions).T @ targets[part]
    inverse = 1 / (squares[:, None] + tried)  # (r, M)
    errors = torch.zeros_like(tried)
    for part, features in rows.chunks(torch.float64):
        along = features @ directions
        leverage = along.square() @ inverse + 1 / len(rows)
        for m in range(len(tried)):
            residual = targets[part] - along @ (right * inverse[:, m, None])
            errors[m] += (residual / (1 - leverage[:, m, None])).square().sum()
    return errors / (len(rows) * n_classes), tried


def _decomposed(rows: CentredRows) -> tuple[Tensor, Tensor]:
    """Decompose X'X by its smaller side: (D, r) directions, and (r,) squared singular values."""
    if rows.rows.n_features <= MOST_EXACT:
        squares, directions = torch.linalg.eigh(rows.covariance() * len(rows))
    else:
        whole = torch.cat([features for _, features in rows.chunks(torch.float64)])
        squares, along = torch.linalg.eigh(whole @ whole.T)
        lengths = squares.clamp(min=1e-300).sqrt()
        directions = whole.T @ (along / lengths)
    is_there = squares > 1e-12 * squares.max()
    return directions[:, is_there], squares[is_there]


def _targets(labels: Tensor, n_classes: int) -> Tensor:
    """Write 1 for the class of each row, and -1 for the others: (N, K) float64."""
    targets = torch.full((len(labels), n_classes), -1.0, dtype=torch.float64, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1.0)


def _spaced(rows: SolverRows, n: int) -> SolverRows:
    """Take `n` rows, evenly spaced."""
    wanted = torch.linspace(0, len(rows) - 1, n).long()
    parts, start = [], 0
    for part in rows.parts:
        own = wanted[(wanted >= start) & (wanted < start + len(part.index))] - start
        parts.append(RowsOfSplit(part.rows, part.index[own], part.ids))
        start += len(part.index)
    return replace(rows, parts=tuple(parts))
