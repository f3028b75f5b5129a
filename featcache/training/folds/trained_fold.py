"""The head of a fold, whatever trained it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from featcache.features.rows import FeatureRows
from featcache.training.folds.divide import FoldRows


@dataclass(frozen=True, eq=False)
class TrainedFold:
    """A trained head.

    Attributes:
        answers: (B, D) features to (B, K) logits, or logarithms of probabilities.
        n_epochs: Epochs that were trained; 0 for a solver.
        kept_epoch: The epoch of its weights, from 1; 0 for a solver.
        is_calibrated: Whether its probabilities mean anything.
        setting: What a solver chose, as it is typed: "C 0.01".
    """

    answers: Callable[[Tensor], Tensor]
    n_epochs: int = 0
    kept_epoch: int = 0
    is_calibrated: bool = True
    setting: str = ""


TrainFold = Callable[[FeatureRows, FoldRows, str], TrainedFold]
"""Trains on the rows of a fold, whose name is for progress and errors: "2/5"."""
