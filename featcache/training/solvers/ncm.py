"""Nearest class mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from featcache.config import SolverSpec
from featcache.training.solvers.centred import class_means
from featcache.training.solvers.linear import LinearFit, OneLinearFit
from featcache.training.solvers.rows import SolverRows
from featcache.training.solvers.steps import OnStep


class NearestMean(OneLinearFit):
    """Scores are minus half the squared distances to the class means, less what all share."""

    needs_every_class = True
    has_scores = True

    def fit(
        self, rows: SolverRows, spec: SolverSpec, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[LinearFit]:
        """Average the rows of each class (Mensink et al. 2013)."""
        means = class_means(rows, n_classes)
        return [LinearFit(means, -0.5 * torch.linalg.vecdot(means, means))]
