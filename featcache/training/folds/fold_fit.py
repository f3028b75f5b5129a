"""Fit the head of one fold by a solver: that of `train-head --solver` on these rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from featcache.config import SolverSpec
from featcache.errors import UsageError, clipped, counted
from featcache.features.rows import FeatureRows
from featcache.training.folds.divide import FoldRows
from featcache.training.folds.trained_fold import TrainedFold
from featcache.training.solvers.fit import fit_rows
from featcache.training.solvers.rows import RowsOfSplit, SolverRows
from featcache.training.solvers.steps import OnStep
from featcache.training.solvers.table import SOLVER_OF

_CHOSEN = ("C", "k", "alpha")


def require_classes_of_folds(
    rows: FeatureRows, folds: Sequence[FoldRows], *, solver: str, class_names: Sequence[str]
) -> None:
    """Refuse folds whose training rows lack a class that others have, if the solver needs each.

    Args:
        rows: The features.
        folds: Which of them train.
        solver: Its name.
        class_names: K names.

    Raises:
        UsageError: Naming the first fold and class.
    """
    if not SOLVER_OF[solver].needs_every_class:
        return
    labels = rows.labels.cpu()
    for number, fold in enumerate(folds, start=1):
        there = [
            torch.bincount(labels[own], minlength=len(class_names))
            for own in (fold.train, fold.val, fold.test)
        ]
        counts = there[0] + there[1] + there[2]
        lacking = ((there[0] == 0) & (counts > 0)).nonzero()[:, 0].tolist()
        if lacking:
            raise UsageError(
                f"--folds is {len(folds)}, but fold {number} would have no training row of the "
                f"class {clipped(class_names[lacking[0]])!r}, which has "
                f"{counted(int(counts[lacking[0]]), 'image')}, and --solver {solver} needs one of "
                f"each class. Nothing was fitted. Use --solver knn or ridge, more images of that "
                f"class, or no --folds."
            )


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
        setting=_chosen(fitted.fit.found),
    )


def _chosen(found: Mapping[str, Any]) -> str:
    """Write what was chosen on the rows of the fold."""
    chosen = {name: found[name] for name in _CHOSEN if name in found}
    return ", ".join(f"{n} {v if isinstance(v, int) else f'{v:.4g}'}" for n, v in chosen.items())
