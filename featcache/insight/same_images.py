"""Whether caches are of the same images, so that their figures can be compared image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featcache.errors import MismatchError, counted
from featcache.features.trainable import labels_of
from featcache.store import Cache


def require_same_images(caches: Sequence[Cache]) -> None:
    """Refuse caches that are not of the same images.

    Raises:
        MismatchError: Naming the first that is not.
    """
    first = caches[0]
    for other in caches[1:]:
        difference = _difference(first, other)
        if difference:
            raise MismatchError(
                f"{first.path} and {other.path} are not of the same images: {difference}. Nothing "
                f"was probed. Give caches of one dataset, with the same --limit."
            )


def _difference(first: Cache, other: Cache) -> str:
    if first.class_names != other.class_names:
        return "their classes differ"
    if list(first.splits) != list(other.splits):
        return f"the one has the splits {', '.join(first)}, the other {', '.join(other)}"
    for split in first:
        n, m = len(first[split]), len(other[split])
        if n != m:
            return f"split {split!r} has {counted(n, 'row')} in the one and {m} in the other"
        if list(first[split].ids) != list(other[split].ids):
            return f"the ids of split {split!r} differ"
        if not np.array_equal(labels_of(first, split), labels_of(other, split)):
            return f"the labels of split {split!r} differ"
    digests = {cache.identity.get("dataset_sha256") for cache in (first, other)}
    return "their digests of the images differ" if len(digests) > 1 else ""
