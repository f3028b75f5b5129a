"""Fit the head of one fold by a solver: that of `train-head --solver` on these rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from featcache.config import SolverSpec
from featcache.features.rows import FeatureRows
from featcache.training.folds.divide import FoldRows
from featcache.training.folds.trained_fold import TrainedFold
from featcache.training.solvers.fit import fit_rows
from featcache.training.solvers.lbfgs import OnStep
from featcache.training.solvers.rows import RowsOfSplit, SolverRows


def fit_fold(
    rows: FeatureRows,
    fold: FoldRows,
    name: str,
    *,
    spec: SolverSpec,
    n_features: int,
    class_names: Sequence[str],
    on_step: OnStep,
) -> TrainedFold:
    """Fit a head to the rows of a fold.

    Args:
        rows: The features.
        fold: Which of them train and validate.
        name: Of the fold.
        spec: The solver.
        n_features: D.
        class_names: K names.
        on_step: Called after each step of a solver that has steps.

    Raises:
        UsageError: If the rows do not allow it.
    """

    def some(index: Tensor) -> SolverRows:
        return SolverRows((RowsOfSplit(rows, index),), n_features)

    val = some(fold.val) if len(fold.val) else None
    fitted = fit_rows(some(fold.train), val, spec, class_names=class_names, on_step=on_step)
    is_calibrated = fitted.fit.found.get("temperature", 1.0) is not None
    treatment = fitted.treatment.to(rows.device)
    return TrainedFold(
        lambda features: fitted.fit.log_probabilities(treatment(features)),
        is_calibrated=is_calibrated,
    )
