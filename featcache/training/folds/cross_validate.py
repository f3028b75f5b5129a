"""K heads of one setting, each tested on the rows that it did not see."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from featcache.config import VAL_FRACTION, TrainSpec
from featcache.core.arithmetic import head_arithmetic
from featcache.core.failures import device_failures_named
from featcache.core.plain_torch import plain_torch
from featcache.core.reporting import NoteCallback
from featcache.errors import clipped, counted
from featcache.evaluation.metrics import are_unequal, balanced_accuracy
from featcache.features.batches import OrderedBatches
from featcache.features.resident import Resident
from featcache.features.rows import FeatureRows
from featcache.heads.figures import SumsOfBatches, measure
from featcache.store import Cache
from featcache.training.folds.cross_validation import (
    CrossValidation,
    FoldFigures,
    summed_up,
    write_folds,
)
from featcache.training.folds.divide import FoldRows, divide
from featcache.training.folds.pool import pooled_rows
from featcache.training.folds.trained_fold import TrainedFold, TrainFold


@torch.no_grad()
@plain_torch()
def cross_validate(
    cache: Cache,
    train: TrainSpec,
    resident: Resident,
    train_fold: TrainFold,
    *,
    n_folds: int,
    file: Path,
    on_note: NoteCallback,
) -> CrossValidation:
    """Train and test a head for each fold of the rows that are not of the split "test".

    Args:
        cache: The cache, which was verified.
        train: Which rows validate; its `split_seed` seeds the folds.
        resident: What is loaded of the cache.
        train_fold: Trains the head of a fold.
        n_folds: How many folds.
        file: Where the figures are kept.
        on_note: Told of classes that are too small for the folds.

    Raises:
        UsageError: If there are too few rows.
        NonFiniteError: If a loss is no number.
    """
    started, device = time.perf_counter(), str(resident.device)
    n_classes, figures = len(cache.class_names), []
    failures = device_failures_named(device, "Cross-validation", kept=lambda: "Runs are kept.")
    with head_arithmetic(device), failures:
        rows, labels, folds = folds_of(cache, train, resident, n_folds)
        counts = torch.bincount(labels, minlength=n_classes).tolist()
        _tell_small_classes(counts, cache.class_names, n_folds, on_note)
        for k, fold in enumerate(folds, start=1):
            trained = train_fold(rows, fold, f"{k}/{n_folds}")
            figures.append(_tested(rows, fold, trained, n_classes))
    seconds = time.perf_counter() - started
    found = summed_up(figures, file, seconds, has_balanced=are_unequal(counts))
    write_folds(found)
    return found


def folds_of(
    cache: Cache, train: TrainSpec, resident: Resident, n_folds: int
) -> tuple[FeatureRows, Tensor, list[FoldRows]]:
    """Divide the rows that are not of the split "test" into folds.

    Args:
        cache: The cache, which was verified.
        train: Which rows validate; its `split_seed` seeds the folds.
        resident: What is loaded of the cache.
        n_folds: How many folds.

    Returns:
        The rows, the (N,) labels of those whose images could be read, and the folds of these.

    Raises:
        UsageError: If there are too few rows.
    """
    rows, index = pooled_rows(cache, resident)
    labels = rows.labels.cpu()[index]
    share = VAL_FRACTION if train.val_fraction is None else train.val_fraction
    parts = divide(labels, n_folds=n_folds, val_fraction=share, seed=train.split_seed)
    folds = [FoldRows(index[p.train], index[p.val], index[p.test]) for p in parts]
    return rows, labels, folds


def _tested(rows: FeatureRows, fold: FoldRows, trained: TrainedFold, n_classes: int) -> FoldFigures:
    """Test the head of a fold on the rows that it did not see."""
    sums, given, labels = SumsOfBatches(), list[Tensor](), list[Tensor]()

    def take(logits: Tensor, of_batch: Tensor) -> None:
        sums(logits, of_batch)
        given.append(logits.argmax(1).cpu())
        labels.append(of_batch.cpu())

    measure(OrderedBatches(rows, fold.test), (trained.answers, take))
    return FoldFigures(
        n_train=len(fold.train),
        n_val=len(fold.val),
        n_test=len(fold.test),
        n_epochs=trained.n_epochs,
        kept_epoch=trained.kept_epoch,
        acc=sums.figures.acc,
        balanced_acc=balanced_accuracy(
            torch.cat(labels).numpy(), torch.cat(given).numpy(), n_classes
        ),
        loss=sums.figures.loss if trained.is_calibrated else None,
        setting=trained.setting,
    )


def _tell_small_classes(
    counts: Sequence[int], names: Sequence[str], n_folds: int, on_note: NoteCallback
) -> None:
    """Tell that some folds have nothing of a class to test."""
    small = [k for k, n in enumerate(counts) if 0 < n < n_folds]
    if small:
        k = min(small, key=lambda k: counts[k])
        on_note(
            f"{counted(len(small), 'class')} with fewer images than there are folds, such as "
            f"{clipped(names[k])!r} ({counts[k]}): some folds have none of them to test"
        )
