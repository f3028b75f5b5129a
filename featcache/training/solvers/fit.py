"""Fit a head to rows: treat them, fit all values, choose on validation rows, finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featcache.config import SolverSpec
from featcache.errors import UsageError, clipped, counted
from featcache.heads.figures import Figures
from featcache.training.solvers.linear import LinearFit
from featcache.training.solvers.rows import SolverRows, fitted_treatment
from featcache.training.solvers.solver import Fit
from featcache.training.solvers.steps import OnStep
from featcache.training.solvers.table import SOLVER_OF
from featcache.training.solvers.temperature import fit_temperature


@dataclass(frozen=True, eq=False)
class Fitted:
    """A head that was fitted to rows.

    Attributes:
        spec: How it was found.
        treatment: What is done to features first.
        fit: The head on treated features.
        val: Its figures on the validation rows, before it was fitted to them as well; None without
            such rows.
        is_refitted: Whether it was.
    """

    spec: SolverSpec
    treatment: nn.Sequential
    fit: Fit
    val: Figures | None
    is_refitted: bool

    def state(self) -> dict[str, Tensor]:
        """Give the tensors of the head, as `TrainedHead.arrays` has them."""
        return self.fit.state(self.treatment)

    @property
    def found(self) -> dict[str, Any]:
        """What was found beside weights, as a head keeps it."""
        return {**self.fit.found, **({"refitted": True} if self.is_refitted else {})}


def fit_rows(
    train: SolverRows,
    val: SolverRows | None,
    spec: SolverSpec,
    *,
    class_names: Sequence[str],
    on_step: OnStep | None = None,
) -> Fitted:
    """Fit a head by a solver, with the value of the lowest validation loss; ties to the smaller.

    Args:
        train: N training rows, not treated.
        val: Rows to choose and to calibrate by; None if there are none.
        spec: The solver, which is not "mlp".
        class_names: K names.
        on_step: Called after each step of a solver that has steps.

    Raises:
        UsageError: If there is something to choose and nothing to choose it by, or a class has no
            row that needs one.
        NonFiniteError: If a row is no number.
    """
    fits = fit_values(train, val, spec, class_names=class_names, on_step=on_step)
    return finished([chosen(fits)], train, val, class_names=class_names, on_step=on_step)[0]


def chosen(fits: Sequence[Fitted]) -> Fitted:
    """Take the fit of the lowest validation loss, of equal ones the first."""
    return min(fits, key=lambda fitted: fitted.val.loss if fitted.val else 0.0)


def fit_values(
    train: SolverRows,
    val: SolverRows | None,
    spec: SolverSpec,
    *,
    class_names: Sequence[str],
    on_step: OnStep | None = None,
) -> list[Fitted]:
    """Fit a head for each value that `spec` has, ascending; arguments are those of `fit_rows`."""
    solver = SOLVER_OF[spec.solver]
    if val is None:
        spec.require_one_value()
    for rows in (train, val):
        if rows is not None:
            rows.require_finite()
    if solver.needs_every_class:
        _require_every_class(train, class_names)
    treatment = fitted_treatment(train, spec.treatment)
    rows = train.treated(treatment)
    val_rows = val.treated(treatment) if val is not None else None
    fits = solver.fit(rows, spec, n_classes=len(class_names), on_step=on_step)
    if solver.has_scores:
        fits = [_calibrated(fit, val_rows) for fit in fits]
    figures = figures_of(fits, val_rows) if val_rows is not None else [None] * len(fits)
    return [
        Fitted(spec, treatment, fit, of_val, is_refitted=False)
        for fit, of_val in zip(fits, figures, strict=True)
    ]


def finished(
    fits: Sequence[Fitted],
    train: SolverRows,
    val: SolverRows | None,
    *,
    class_names: Sequence[str],
    on_step: OnStep | None = None,
) -> list[Fitted]:
    """Make of fits of one `fit_values` what is kept: exact, and with `refit` on all rows."""
    first = fits[0]
    is_refitted = bool(first.spec.refit) and val is not None
    rows = train.with_rows(val) if is_refitted and val is not None else train
    ends = SOLVER_OF[first.spec.solver].finish(
        [fitted.fit for fitted in fits],
        rows.treated(first.treatment),
        n_classes=len(class_names),
        on_step=on_step,
    )
    figures: Sequence[Figures | None] = [fitted.val for fitted in fits]
    if val is not None and not is_refitted:  # a little more exact now
        figures = figures_of(ends, val.treated(first.treatment))
    return [
        Fitted(first.spec, first.treatment, fit, of_val, is_refitted)
        for fit, of_val in zip(ends, figures, strict=True)
    ]


def figures_of(fits: Sequence[Fit], rows: SolverRows) -> list[Figures]:
    """Compute loss and accuracy of each fit on treated rows, in float64."""
    labels = rows.labels
    losses, n_right = [0.0] * len(fits), [0] * len(fits)
    for part, features in rows.chunks():
        own = labels[part, None]
        for i, fit in enumerate(fits):
            log_p = fit.log_probabilities(features)
            losses[i] -= float(log_p.gather(1, own).sum())
            n_right[i] += int((log_p.argmax(1) == own[:, 0]).sum())
    return [
        Figures(loss / len(rows), n / len(rows)) for loss, n in zip(losses, n_right, strict=True)
    ]


def _calibrated(fit: Fit, val: SolverRows | None) -> Fit:
    """Divide scores by the temperature that fits validation rows best; without them, note that."""
    assert isinstance(fit, LinearFit), "no others have scores"
    if val is None:
        return fit.with_found(temperature=None)
    scores = torch.cat([fit.scores(features) for _, features in val.chunks()])
    return fit.divided(fit_temperature(scores, val.labels))


def _require_every_class(train: SolverRows, class_names: Sequence[str]) -> None:
    counts = torch.bincount(train.labels, minlength=len(class_names))
    missing = [class_names[k] for k in (counts == 0).nonzero()[:, 0].tolist()]
    if missing:
        raise UsageError(
            f"{counted(len(missing), 'class')} of {len(class_names)} have no training row: "
            f"{clipped(', '.join(missing))}. This solver needs one of each. Nothing was fitted. "
            f"Use --solver knn, ridge or mlp, or another --split-seed."
        )
