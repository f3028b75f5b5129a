"""The images of a probe: some that are fitted, some that choose settings, some that are tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featcache.config import VAL_FRACTION
from featcache.core.reporting import NoteCallback
from featcache.errors import UsageError, counted
from featcache.features.split import evenly_spaced, ordered_by_class, training_rows, valid_rows
from featcache.features.trainable import labels_of, require_classes
from featcache.insight.stored_rows import stored_rows
from featcache.store import Cache

SPLIT_SEED = 42  # of the rows for validation, as of a training
# What logistic regression does in seconds: so many numbers, and rows of any length.
MOST_VALUES, ANY_ROWS = 1 << 21, 1024
MOST_TESTED = 10_000  # half a point of 95% interval at 90%, and soon done
_VAL_SHARE = 4  # rows that fit for each that validates


@dataclass(frozen=True, eq=False)
class ChosenRows:
    """Rows of one split, (n,) ascending.

    Attributes:
        split: Its name in the cache.
        rows: Their numbers.
        labels: Their classes, (n,) int64.
    """

    split: str
    rows: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class ProbeRows:
    """The rows of a probe, the same in all its caches.

    Attributes:
        train: Rows that are fitted.
        val: Rows that choose settings.
        test: Rows that are tested.
        tested_as: What the tested rows are called: "test" or "val".
        all_train: All rows that could be fitted, from which a few are drawn.
    """

    train: ChosenRows
    val: ChosenRows
    test: ChosenRows
    tested_as: str
    all_train: ChosenRows


def choose_rows(
    caches: Sequence[Cache], *, max_rows: int | None, seed: int, on_note: NoteCallback
) -> ProbeRows:
    """Choose the rows, for all caches alike.

    Args:
        caches: Caches of the same images.
        max_rows: At most so many rows are fitted; None is what takes seconds.
        seed: Seeds which, where there are more.
        on_note: Told what stands in for a missing test split, and what is left out.

    Raises:
        UsageError: If there is nothing to fit or to test, or one class alone.
    """
    first = caches[0]
    train_split, train_rows, val_split, val_rows = training_rows(
        first, val_fraction=None, split_seed=SPLIT_SEED
    )
    train = _part(caches, train_split, train_rows)
    val = _part(caches, val_split, val_rows)
    tested_as, test = "test", val
    if "test" in first.splits and first["test"].valid.any():
        test = _part(caches, "test", valid_rows(first["test"]))
    else:
        tested_as = "val"
        train, val = _divided(train, seed)
        on_note(
            f"{first.path.name} has no test images: the {counted(len(test.rows), 'image')} of "
            f"validation are tested, and a share of the training images chooses settings"
        )
    _require_use(first, train, val, test)
    most = max_rows or max(ANY_ROWS, MOST_VALUES // max(cache.n_features for cache in caches))
    fitted = _cut(train, most, seed)
    if len(fitted.rows) < len(train.rows):
        why = "as asked for" if max_rows else "so that it takes seconds; more with --max-rows N"
        on_note(f"{len(fitted.rows)} of {len(train.rows)} training images are fitted, {why}")
    tested = _cut(test, MOST_TESTED, seed)
    if len(tested.rows) < len(test.rows):
        on_note(f"{len(tested.rows)} of {len(test.rows)} images are tested")
    chosen = _cut(val, max(1, -(-len(fitted.rows) // _VAL_SHARE)), seed)
    return ProbeRows(fitted, chosen, tested, tested_as, train)


def load_part(cache: Cache, part: ChosenRows, *, device: torch.device) -> Tensor:
    """Read the features of some rows, (n, D) float32 on the device."""
    features, _ = stored_rows(cache, part.split, device).take(part.rows)
    return features


def few_of_each_class(labels: Tensor, n: int, *, seed: int) -> Tensor:
    """Draw n rows of each class that has any, ascending; with more they are among these.

    Args:
        labels: (N,) int64.
        n: How many of each class; no class has fewer.
        seed: Seeds which.
    """
    order = ordered_by_class(labels, seed=seed)
    of_class = labels[order]
    starts = torch.searchsorted(of_class, of_class)  # of its class, for each
    rank = torch.arange(len(order)) - starts
    return order[rank < n].sort().values


def _part(caches: Sequence[Cache], split: str, rows: Tensor) -> ChosenRows:
    """Keep the rows whose images could be read for every cache."""
    is_valid = np.logical_and.reduce([cache[split].valid for cache in caches])
    rows = rows[torch.from_numpy(is_valid)[rows]].sort().values
    return ChosenRows(split, rows, torch.from_numpy(labels_of(caches[0], split))[rows])


def _divided(part: ChosenRows, seed: int) -> tuple[ChosenRows, ChosenRows]:
    """Take a share of some rows away, of each class about the same."""
    n = int(len(part.rows) * VAL_FRACTION)
    order = ordered_by_class(part.labels, seed=seed)
    is_val = torch.zeros(len(order), dtype=torch.bool)
    is_val[order[evenly_spaced(n, len(order))]] = True
    return _of(part, ~is_val), _of(part, is_val)


def _cut(part: ChosenRows, most: int, seed: int) -> ChosenRows:
    """Leave at most so many rows, of each class about the same share."""
    if len(part.rows) <= most:
        return part
    order = ordered_by_class(part.labels, seed=seed)
    return _of(part, order[evenly_spaced(most, len(order))].sort().values)


def _of(part: ChosenRows, chosen: Tensor) -> ChosenRows:
    return ChosenRows(part.split, part.rows[chosen], part.labels[chosen])


def _require_use(cache: Cache, train: ChosenRows, val: ChosenRows, test: ChosenRows) -> None:
    for what, part in (("fit", train), ("choose settings by", val), ("test", test)):
        if not len(part.rows):
            raise UsageError(
                f"{cache.path.name} has too few images for a probe: none is left to {what}. "
                f"Nothing was probed. Give more images."
            )
    require_classes(cache, train.labels.numpy())
