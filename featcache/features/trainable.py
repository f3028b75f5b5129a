"""Is there something to train and to validate on, as far as that is known without torch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from featcache.config import VAL_FRACTION
from featcache.errors import UsageError
from featcache.store import Cache


def require_trainable(
    cache: Cache, val_fraction: float | None, *, may_lack_validation: bool = False
) -> None:
    """Refuse a cache that leaves nothing to train on, and a `val_fraction` that has no use.

    Args:
        cache: The cache.
        val_fraction: Share of the training rows for validation; None is the usual one.
        may_lack_validation: Whether a share of 0 is all right: some solvers choose nothing.

    Raises:
        UsageError: Naming what is missing or too much.
    """
    require_labelled(cache)
    if "train" not in cache.splits:
        raise UsageError(
            f"{cache.path.name} has no split 'train', only {', '.join(cache.splits)}. Nothing was "
            f"started. Extract a dataset that has one."
        )
    if "val" in cache.splits and val_fraction is not None:
        raise UsageError(
            f"{cache.path.name} has its own split 'val', so --val-fraction has no use. Nothing was "
            f"started. Leave it out."
        )
    is_valid = cache["train"].valid
    if "val" in cache.splits:
        require_rows(cache, "validation", "val", int(np.count_nonzero(cache["val"].valid)))
    elif not (may_lack_validation and val_fraction == 0):
        share = VAL_FRACTION if val_fraction is None else val_fraction
        require_rows(cache, "validation", "train", math.floor(len(is_valid) * share))
    require_rows(cache, "training", "train", int(np.count_nonzero(is_valid)))
    require_classes(cache, labels_of(cache, "train")[is_valid])


def require_labelled(cache: Cache) -> None:
    """Refuse a cache of images without labels.

    Raises:
        UsageError: If it is one.
    """
    for split in cache.splits:
        labels_of(cache, split)


def labels_of(cache: Cache, split: str) -> npt.NDArray[np.int64]:
    """Give the labels of a split, (N,).

    Raises:
        UsageError: If its images have none.
    """
    labels = cache[split].labels
    if labels is None:
        raise UsageError(
            f"{cache.path.name} has no labels: it was made from images without classes. A head is "
            f"trained and tested on labels. Nothing was started. Extract images with classes."
        )
    return labels


def require_rows(cache: Cache, what: str, split: str, n_rows: int) -> None:
    """Refuse to train or validate on nothing."""
    if not n_rows:
        n_valid = int(np.count_nonzero(cache[split].valid))
        raise UsageError(
            f"No {what} images are left: split {split!r} of {cache.path.name} has {n_valid} "
            f"that could be read. Nothing was started. Use another --val-fraction, or more "
            f"images."
        )


def require_classes(cache: Cache, labels: npt.NDArray[np.integer]) -> None:
    """Refuse training rows of one class."""
    classes = np.unique(labels)
    if len(classes) < 2:
        names = [cache.class_names[i] for i in classes if 0 <= i < len(cache.class_names)]
        raise UsageError(
            f"All training images of {cache.path.name} ({len(labels)}) are of one class "
            f"({', '.join(names)}): there is nothing to learn. Nothing was started. Give images of "
            f"at least two classes, or a lower --val-fraction."
        )
