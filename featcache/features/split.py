"""Which rows of a cache train, and which validate."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from featcache.config import VAL_FRACTION
from featcache.features.trainable import (
    labels_of,
    require_classes,
    require_rows,
    require_trainable,
)
from featcache.store import Cache, CacheSplit


def training_rows(
    cache: Cache,
    *,
    val_fraction: float | None,
    split_seed: int,
    may_lack_validation: bool = False,
) -> tuple[str, Tensor, str, Tensor]:
    """Choose the rows that train and the rows that validate.

    The rows of the split "train" are divided as `torch.utils.data.random_split` with
    `torch.Generator().manual_seed(split_seed)` does, to the index, and then those whose images
    could not be read are left out. A cache with its own split "val" is not divided. With
    `may_lack_validation` a `val_fraction` of 0 leaves no row to validate.

    Returns:
        Split and row numbers for training, then split and row numbers for validation.

    Raises:
        UsageError: If there is nothing to train or to validate on, or only one class.
    """
    require_trainable(cache, val_fraction, may_lack_validation=may_lack_validation)
    if "val" in cache.splits:
        chosen = ("train", valid_rows(cache["train"]), "val", valid_rows(cache["val"]))
    else:
        is_valid = torch.from_numpy(cache["train"].valid)
        parts = random_split_rows(
            len(is_valid),
            val_fraction=VAL_FRACTION if val_fraction is None else val_fraction,
            seed=split_seed,
        )
        train, val = (part[is_valid[part]] for part in parts)
        chosen = ("train", train, "train", val)
    train_split, train, val_split, val = chosen
    if not (may_lack_validation and val_fraction == 0):
        require_rows(cache, "validation", val_split, len(val))
    require_rows(cache, "training", train_split, len(train))
    require_classes(cache, labels_of(cache, train_split)[train.numpy()])
    return chosen


def random_split_rows(n_rows: int, *, val_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide 0..n_rows-1 as random_split([n_rows - n_val, n_val]) does with a seeded generator.

    Returns:
        Training rows and floor(n_rows * val_fraction) validation rows, both shuffled.
    """
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    n_val = math.floor(n_rows * val_fraction)
    return order[: n_rows - n_val], order[n_rows - n_val :]


def valid_rows(split: CacheSplit) -> Tensor:
    """Number the rows of a split whose images could be read, in order."""
    return torch.from_numpy(np.flatnonzero(split.valid))


def ordered_by_class(labels: Tensor, *, seed: int) -> Tensor:
    """Order rows by class, those of a class at random: (N,) positions of (N,) int64 labels."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return shuffled[labels[shuffled].argsort(stable=True)]


def evenly_spaced(n: int, n_rows: int) -> Tensor:
    """Take n of so many positions at equal distances; of rows by class they have equal shares."""
    return ((torch.arange(n, dtype=torch.float64) + 0.5) * n_rows / max(1, n)).long()
