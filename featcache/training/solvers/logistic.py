"""Logistic regression for several C at once, as scikit-learn defines it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from featcache.config.solver_specs import MOST_STEPS
from featcache.training.solvers.centred import CentredRows
from featcache.training.solvers.lbfgs import minimise
from featcache.training.solvers.linear import LinearFit
from featcache.training.solvers.rows import SolverRows
from featcache.training.solvers.spectrum import spectrum_of
from featcache.training.solvers.steps import OnStep

# The largest part of the gradient of the mean loss: to choose C by, and of the C that is chosen.
TOLERANCE, EXACT = 1e-6, 1e-9
# 10,000 rows of 1,280 features took 1,043 steps to EXACT at C 1, and 1,094 at C 10.
MOST_STEPS_EXACT = 2 * MOST_STEPS
_TOLERANCE_FLOAT32 = 1e-5  # less than that is rounding
_MOST_FLOAT64 = 64 << 20  # numbers: 512 MB

_PORTION_VALUES = 2 << 20  # logits at a time: 16 MB, of which a few copies are needed


def fit_logistic(
    rows: SolverRows,
    values: Sequence[float],
    *,
    n_classes: int,
    start: Sequence[LinearFit] = (),
    exact: bool = False,
    max_steps: int = MOST_STEPS,
    on_step: OnStep | None = None,
) -> list[LinearFit]:
    """Minimise C * (sum of cross-entropies) + 0.5 |W|^2 for each C, all of them side by side.

    The bias is free. Two classes share one vector of weights, as scikit-learn's do. Sums are
    float64. So are products, unless there are more than 64 million numbers; those of `exact` always
    are.

    Args:
        rows: N treated rows; each of the K classes has one.
        values: The values of C.
        n_classes: K.
        start: Fits to begin with, one for each C; without them all begin at 0.
        exact: Whether to go on until the gradient is 1e-9, instead of 1e-6 (1e-5 in float32).
        max_steps: What takes more is not converged.
        on_step: Called after each step.

    Returns:
        One for each C; `found` has "C", "converged" and "n_iterations".
    """
    is_small = len(rows) * rows.n_features <= _MOST_FLOAT64
    dtype = torch.float64 if exact or is_small else torch.float32
    tolerance = EXACT if exact else TOLERANCE if is_small else _TOLERANCE_FLOAT32
    row_dtype = torch.float64 if is_small else torch.float32
    problems = LogisticProblems(rows, values, n_classes=n_classes, dtype=dtype, row_dtype=row_dtype)
    begin = [problems.packed(fit) for fit in start] or [problems.zero()] * len(values)
    minima = minimise(
        problems, torch.stack(begin), tolerance=tolerance, max_steps=max_steps, on_step=on_step
    )
    told = zip(values, minima.converged.tolist(), minima.n_steps.tolist(), strict=True)
    return [
        problems.unpacked(at).with_found(C=C, converged=converged, n_iterations=n_steps)
        for at, (C, converged, n_steps) in zip(minima.at, told, strict=True)
    ]


class LogisticProblems:
    """The mean loss of N rows plus |W|^2 / (2 C N), for each C: of one size for all C and N.

    Features are centred, which changes the bias alone. The parameters of a problem are (K, D + 1)
    in one row, the bias last.

    Attributes:
        dtype: Of products.
    """

    def __init__(
        self,
        rows: SolverRows,
        values: Sequence[float],
        *,
        n_classes: int,
        dtype: torch.dtype,
        row_dtype: torch.dtype,
    ) -> None:
        """Take the rows, as `row_dtype`; a centred copy of them stays in memory, if it has room."""
        self.dtype = dtype
        self._rows, self._labels = CentredRows.by_mean(rows).kept(row_dtype), rows.labels
        self._row_dtype = row_dtype
        self._n_features, self._mean = rows.n_features, self._rows.means[0]
        self._n_out = 1 if n_classes == 2 else n_classes
        self._ridge = 1 / (self._mean.new_tensor(values) * len(rows))
        self._curvature = self._mean.new_ones(len(values), self._n_out)
        self._spectrum = spectrum_of(self._rows)

    def zero(self) -> Tensor:
        """Give the parameters of even probabilities, (P,)."""
        return self._mean.new_zeros(self._n_out * (self._n_features + 1))

    def packed(self, fit: LinearFit) -> Tensor:
        """Write a fit as parameters, (P,)."""
        weight, bias = fit.weight, fit.bias + fit.weight @ self._mean
        if self._n_out == 1:
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        return torch.cat([weight, bias[:, None]], dim=1).flatten()

    def unpacked(self, at: Tensor) -> LinearFit:
        """Read parameters, (P,); of two classes the first has scores of 0."""
        table = at.view(self._n_out, -1)
        weight, bias = table[:, :-1], table[:, -1] - table[:, :-1] @ self._mean
        if self._n_out == 1:
            weight, bias = (torch.cat([torch.zeros_like(t), t]) for t in (weight, bias))
        return LinearFit(weight.contiguous(), bias)

    def evaluate(self, at: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Compute values and gradients; see `Problems`."""
        n, n_problems = len(self._rows), len(which)
        table = at.view(n_problems * self._n_out, -1)
        weight, bias = table[:, :-1].to(self.dtype).contiguous(), table[:, -1]
        losses = at.new_zeros(n_problems)
        curvature = at.new_zeros(n_problems, self._n_out)
        gradient = torch.zeros_like(table)
        for part, features in self._portions(n_problems):
            logits = (features @ weight.T).double().add_(bias).view(len(features), n_problems, -1)
            if self._n_out == 1:
                logits = pad(logits, (1, 0))
            of_label = self._labels[part, None, None].expand(-1, n_problems, 1)
            log_sums = logits.logsumexp(2, keepdim=True)
            losses += (log_sums - logits.gather(2, of_label)).sum((0, 2))
            delta = logits.sub_(log_sums).exp_()  # the probabilities, then less the label
            curvature += (delta * (1 - delta)).sum(0)[:, -self._n_out :]
            delta.scatter_add_(2, of_label, delta.new_full(of_label.shape, -1))
            delta = delta[..., -self._n_out :].reshape(len(features), -1)
            gradient[:, :-1] += delta.to(self.dtype).T @ features
            gradient[:, -1] += delta.sum(0)
        self._curvature[which] = curvature / n
        ridge = self._ridge[which]
        own = at.view(n_problems, self._n_out, -1)[..., :-1]
        gradient = gradient.div_(n).view(n_problems, self._n_out, -1)
        gradient[..., :-1] += ridge[:, None, None] * own
        return losses / n + 0.5 * ridge * own.square().sum((1, 2)), gradient.flatten(1)

    def _portions(self, n_problems: int) -> Iterator[tuple[slice, Tensor]]:
        """Give centred rows, so few at a time that their logits have room."""
        step = max(1, _PORTION_VALUES // (n_problems * max(2, self._n_out)))
        for part, features in self._rows.chunks(self._row_dtype):
            for start in range(0, len(features), step):
                some = features[start : start + step]
                first = part.start + start
                yield slice(first, first + len(some)), some.to(self.dtype)

    def precondition(self, vectors: Tensor, which: Tensor) -> Tensor:
        """Divide by the Hessians as they are on average over the rows; see `Problems`."""
        tables = vectors.view(len(which), self._n_out, -1)
        scale = self._curvature[which].clamp(min=1e-12)
        weight = self._spectrum.solve(tables[..., :-1], scale, self._ridge[which])
        return torch.cat([weight, tables[..., -1:] / scale[:, :, None]], dim=2).flatten(1)
