"""The solvers by name; `mlp` is none of them: it has epochs, and `training/run.py`."""

from __future__ import annotations

from collections.abc import Mapping

from featcache.training.solvers.knn import NearestNeighbours
from featcache.training.solvers.lda import LinearDiscriminant
from featcache.training.solvers.logreg import LogisticRegression
from featcache.training.solvers.ncm import NearestMean
from featcache.training.solvers.ridge import Ridge
from featcache.training.solvers.solver import Solver

SOLVER_OF: Mapping[str, Solver] = {
    "logreg": LogisticRegression(),
    "knn": NearestNeighbours(),
    "ncm": NearestMean(),
    "ridge": Ridge(),
    "lda": LinearDiscriminant(),
}
