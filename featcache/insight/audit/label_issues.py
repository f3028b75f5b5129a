"""Labels that other images do not confirm: a head that never saw an image names another class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from featcache.config import SolverSpec
from featcache.insight.audit.result import LabelIssue, OutOfFold
from featcache.insight.audit.rows import AuditedRows
from featcache.training.folds.divide import divide
from featcache.training.solvers.fit import fit_rows

# Neighbours are better for pixels of digits, ridge regression for features of photographs
# (docs/results.md). Logistic regression takes ten times as long, and is not better.
SOLVERS, N_FOLDS = ("knn", "ridge"), 5
_VAL_FRACTION = 0.1  # of the images that fit: chooses the temperature


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is said of N images by heads that never saw them.

    Attributes:
        suggested: (N,) int64, the most probable class of each.
        p_suggested: (N,) its probability.
        p_label: (N,) that of the label.
    """

    suggested: npt.NDArray[np.int64]
    p_suggested: npt.NDArray[np.float64]
    p_label: npt.NDArray[np.float64]

    def doubted(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rank the images for which another class is more probable than the label.

        The rank is by the difference of both probabilities, the normalized margin of confident
        learning (Northcutt et al. 2021).

        Args:
            labels: (N,).

        Returns:
            Their numbers, the likeliest errors first.
        """
        order = np.argsort(self.p_label - self.p_suggested, kind="stable")
        doubted: npt.NDArray[np.int64] = order[self.suggested[order] != labels[order]]
        return doubted


def out_of_fold(
    rows: AuditedRows,
    labels: npt.NDArray[np.int64],
    *,
    solver: str,
    device: torch.device,
    on_fold: Callable[[], None],
) -> Judgement:
    """Judge each image by a head that was fitted to the others.

    Args:
        rows: N images.
        labels: (N,) their classes.
        solver: How heads are found, as `train-head --solver` names it.
        device: Where to compute.
        on_fold: Called after each fold.

    Raises:
        TooFewRowsError: If there are too few images, or one class alone.
    """
    suggested = np.zeros(len(rows), np.int64)
    p_suggested, p_label = np.zeros(len(rows)), np.zeros(len(rows))
    spec, names = SolverSpec(solver=solver), rows.cache.class_names
    folds = divide(torch.from_numpy(labels), n_folds=N_FOLDS, val_fraction=_VAL_FRACTION, seed=0)
    for fold in folds:
        train, val, test = (
            rows.features(part.numpy(), device).rows for part in (fold.train, fold.val, fold.test)
        )
        fitted = fit_rows(train, val, spec, class_names=names)
        for part, features in test.treated(fitted.treatment).chunks():
            p = fitted.fit.log_probabilities(features).exp().cpu().numpy()
            numbers = fold.test[part].numpy()
            suggested[numbers], p_suggested[numbers] = p.argmax(1), p.max(1)
            p_label[numbers] = p[np.arange(len(p)), labels[numbers]]
        on_fold()
    return Judgement(suggested, p_suggested, p_label)


def find_label_issues(
    rows: AuditedRows,
    labels: npt.NDArray[np.int64],
    *,
    top: int,
    device: torch.device,
    on_progress: Callable[[int, int], None],
) -> tuple[Sequence[LabelIssue], OutOfFold]:
    """Name the images whose labels are most doubtful, and how good the heads are that say so.

    Of the heads of all solvers, those judge that are right for the most images.

    Args:
        rows: N images.
        labels: (N,) their classes.
        top: How many.
        device: Where to compute.
        on_progress: Called with the folds that are done, and their number.

    Raises:
        TooFewRowsError: If there are too few images.
    """
    n_done = 0

    def told() -> None:
        nonlocal n_done
        n_done += 1
        on_progress(n_done, N_FOLDS * len(SOLVERS))

    each = {
        solver: out_of_fold(rows, labels, solver=solver, device=device, on_fold=told)
        for solver in SOLVERS
    }
    solver = min(each, key=lambda solver: len(each[solver].doubted(labels)))
    judged = each[solver]
    order, names = judged.doubted(labels), rows.cache.class_names
    issues = [
        LabelIssue(
            image=rows.image(i),
            suggested=names[judged.suggested[i]],
            p_label=float(judged.p_label[i]),
            p_suggested=float(judged.p_suggested[i]),
        )
        for i in order[:top].tolist()
    ]
    acc = 1 - len(order) / len(rows)
    return issues, OutOfFold(solver, N_FOLDS, len(rows), len(order), acc)
