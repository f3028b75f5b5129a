"""scikit-learn's digits, standardised: 1,000 rows to fit and the others to ask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits

from featcache.training.solvers.fit import Fitted
from featcache.training.solvers.rows import SolverRows


@dataclass(frozen=True, eq=False)
class Digits:
    """(N, 64) float32 features and (N,) int64 labels."""

    train: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]

    @property
    def rows(self) -> SolverRows:
        """The training rows."""
        return rows_of(self.train, self.train_labels)

    @property
    def test_rows(self) -> SolverRows:
        """The others."""
        return rows_of(self.test, self.test_labels)


def rows_of(features: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> SolverRows:
    return SolverRows.of_arrays(torch.from_numpy(features), torch.from_numpy(labels))


def log_probabilities(fitted: Fitted, rows: SolverRows) -> torch.Tensor:
    """(N, K) float64, of rows that are not treated."""
    chunks = rows.treated(fitted.treatment).chunks()
    return torch.cat([fitted.fit.log_probabilities(chunk) for _, chunk in chunks])


@cache
def digits(classes: int = 10) -> Digits:
    features, labels = load_digits(return_X_y=True)
    features, labels = features[labels < classes], labels[labels < classes].astype(np.int64)
    deviation = features.std(0)
    features = (features - features.mean(0)) / np.where(deviation == 0, 1, deviation)
    features = features.astype(np.float32)
    n = 1000 if classes == 10 else len(features) // 2
    return Digits(features[:n], labels[:n], features[n:], labels[n:])
