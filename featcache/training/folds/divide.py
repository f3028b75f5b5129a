"""Divide rows into folds of the same classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from featcache.errors import UsageError, counted
from featcache.features.split import evenly_spaced, ordered_by_class


class TooFewRowsError(UsageError):
    """Rows cannot be divided into so many folds."""


@dataclass(frozen=True, eq=False)
class FoldRows:
    """The rows of one fold, (n,) int64 each, ascending.

    Attributes:
        train: Rows that train its head.
        val: Rows by which that training is watched.
        test: Rows that it is tested on, which no other fold tests.
    """

    train: Tensor
    val: Tensor
    test: Tensor


def divide(labels: Tensor, *, n_folds: int, val_fraction: float, seed: int) -> list[FoldRows]:
    """Divide rows into folds, so that the rows of a class differ by one between folds at most.

    Args:
        labels: (N,) int64.
        n_folds: How many.
        val_fraction: Share of the rows that a fold does not test which validate; of each class
            about the same share. With 0 there are none.
        seed: Seeds which rows these are.

    Raises:
        TooFewRowsError: If a fold would have nothing to test, to validate or to learn.
    """
    by_class = ordered_by_class(labels, seed=seed)
    fold_of = torch.arange(len(labels)) % n_folds  # dealt out one by one
    folds = []
    for k in range(n_folds):
        rest = by_class[fold_of != k]
        n_val = math.floor(len(rest) * val_fraction)
        is_val = torch.zeros(len(rest), dtype=torch.bool)
        is_val[evenly_spaced(n_val, len(rest))] = True
        fold = FoldRows(
            *(rows.sort().values for rows in (rest[~is_val], rest[is_val], by_class[fold_of == k]))
        )
        _require_use(fold, labels, n_folds, validates=val_fraction > 0)
        folds.append(fold)
    return folds


def _require_use(fold: FoldRows, labels: Tensor, n_folds: int, *, validates: bool) -> None:
    lacks = [] if len(fold.test) else ["no row to test"]
    if validates and not len(fold.val):
        lacks.append("no row to validate")
    if len(labels[fold.train].unique()) < 2:
        lacks.append("fewer than two classes to learn")
    if lacks:
        raise TooFewRowsError(
            f"--folds is {n_folds}, but {counted(len(labels), 'image')} are too few for that: a "
            f"fold would have {' and '.join(lacks)}. Nothing was trained for it. Use fewer folds, "
            f"or more images."
        )
