"""Which images of another cache trained a head: a dataset may have grown, or be cut otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.core.paths import native
from featcache.errors import UsageError
from featcache.images.datasets import dataset_slug
from featcache.store import Cache, CacheSplit

_TRAINING = ("train", "val")  # the rows of these splits trained it, or chose it


@dataclass(frozen=True, eq=False)
class SeenImages:
    """The images of a split that a head was trained on or chosen by.

    Attributes:
        rows: (N,) which rows of the split.
        doubt: Why there may be more of them; empty if there are not.
    """

    rows: npt.NDArray[np.bool_]
    doubt: str


def seen_images(own: Cache | None, cache: Cache, split: str, *, dataset: str) -> SeenImages:
    """Find the images of a split that stand in the splits "train" and "val" of a head's own cache.

    An image is known by its SHA-256; where a cache does not hold that, by its id in the split of
    the same name of the same dataset.

    Args:
        own: The cache that the head was trained on; None if it is gone.
        cache: The other.
        split: The split of the other.
        dataset: That of the head, as typed.

    Raises:
        UsageError: If it is a training split of the same dataset, and `own` is gone.
    """
    is_same = _slug(dataset) == _slug(cache.provenance.dataset)
    asked = cache[split]
    if own is None:
        if is_same and split in _TRAINING:
            raise UsageError(
                f"Split {split!r} of {cache.path.name} is of the dataset that trained the head, "
                f"{native(dataset)}, and the cache of the training is gone: which of the images "
                f"the head has not seen, is not known. Nothing was evaluated. Say where that cache "
                f"is with --cache-dir, or take another --split."
            )
        return SeenImages(np.zeros(len(asked), np.bool_), "the cache of its training is gone")
    trained = [own[name] for name in _TRAINING if name in own.splits]
    if asked.image_sha256 is not None and all(one.image_sha256 is not None for one in trained):
        known = np.concatenate([_digests(one)[one.valid] for one in trained])
        return SeenImages(np.isin(_digests(asked), known) & asked.valid, "")
    rows = np.zeros(len(asked), np.bool_)
    if is_same and split in _TRAINING and split in own.splits:
        ids = {name for name, valid in zip(own[split].ids, own[split].valid, strict=True) if valid}
        rows = np.array([name in ids for name in asked.ids], np.bool_) & asked.valid
    return SeenImages(rows, "a cache does not hold the SHA-256 of its images")


def _slug(dataset: str) -> str:
    try:
        return dataset_slug(native(dataset))
    except (OSError, ValueError, RuntimeError):  # it may be a stranger's, or not be here
        return dataset


def _digests(split: CacheSplit) -> npt.NDArray[np.bytes_]:
    """Give the digests as (N,) strings, which can be sorted."""
    assert split.image_sha256 is not None
    strings: npt.NDArray[np.bytes_] = np.ascontiguousarray(split.image_sha256).view("S32")[:, 0]
    return strings
