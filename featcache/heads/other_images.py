"""A head before a cache of other images than it was trained on: classes are matched by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from featcache.config import ExtractSpec
from featcache.core.paths import native
from featcache.core.reporting import NoteCallback
from featcache.errors import MismatchError, UsageError, counted
from featcache.features.trainable import labels_of
from featcache.heads.own_cache import own_cache
from featcache.heads.seen_images import SeenImages, seen_images
from featcache.heads.trained_head import VIEWS, TrainedHead
from featcache.store import Cache

_DATASET = "dataset_sha256"
_SHOWN = 5
_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class OtherImages:
    """A cache whose features the head's backbone made, of other images.

    Attributes:
        cache: The cache.
        own: The cache that the head was trained on; None if it is gone.
        dataset: That of the head, as typed.
        class_names: The head's.
        numbers: (C,) int64, of each class of the cache its number in the head; -1 if it has none.
    """

    cache: Cache
    own: Cache | None
    dataset: str
    class_names: Sequence[str]
    numbers: npt.NDArray[np.int64]
    _seen: dict[str, SeenImages] = field(default_factory=dict, init=False, repr=False)

    def split(self, asked: str | None, on_note: NoteCallback) -> str:
        """Settle the split: the cache's own, but for the images that trained the head.

        Raises:
            UsageError: If it has none of that name, or none of its images can be evaluated.
        """
        if asked is None:
            asked = next((name for name in ("test", "val") if name in self.cache), None)
            if asked is None:
                raise UsageError(
                    f"{self.cache.path.name} has no split 'test' or 'val', only "
                    f"{', '.join(self.cache.splits)}. Nothing was evaluated. Choose with --split."
                )
            if asked != "test":
                on_note(f"{self.cache.path.name} has no split 'test': {asked!r} is taken")
        split = asked if asked in self.cache else asked.lower()
        if split not in self.cache:
            raise UsageError(
                f"--split is {asked!r}, but {self.cache.path.name} has only "
                f"{', '.join(self.cache.splits)}. Nothing was evaluated."
            )
        if not len(self.rows(split)):
            raise UsageError(
                f"Split {split!r} of {self.cache.path.name} has no image that could be read, is of "
                f"a class that the head knows, and did not train the head. Nothing was evaluated."
            )
        return split

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """List the rows that can be evaluated, (n,) in order.

        They could be read, are of a class of the head, and did not train it.
        """
        is_known = self.labels(split) != _UNKNOWN
        return np.flatnonzero(self.cache[split].valid & is_known & ~self.seen(split).rows)

    def seen(self, split: str) -> SeenImages:
        """Find the images that trained the head, once for each split."""
        if split not in self._seen:
            self._seen[split] = seen_images(self.own, self.cache, split, dataset=self.dataset)
        return self._seen[split]

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Give the label of each row by the head's numbers, (N,); -1 for a class it lacks."""
        return self.numbers[labels_of(self.cache, split)]

    def remarks(self, split: str) -> tuple[str, ...]:
        """Say what the head and the images have in common, and what they have not."""
        valid, labels = self.cache[split].valid, labels_of(self.cache, split)
        extra = [c for c, number in enumerate(self.numbers) if number == _UNKNOWN]
        n_extra = int(np.isin(labels[valid], extra).sum())
        present = {self.class_names[k] for k in np.unique(self.labels(split)[self.rows(split)])}
        missing = [name for name in self.class_names if name not in present]
        said = [
            f"the head was trained on other images; classes are those of the same name as in "
            f"{native(self.cache.provenance.dataset)}"
        ]
        seen = self.seen(split)
        if n_seen := int(seen.rows.sum()):
            said.append(
                f"{counted(n_seen, 'image')} left out that trained the head or chose its settings"
            )
        if seen.doubt:
            said.append(f"images that trained the head may be among these: {seen.doubt}")
        if extra:
            names = [self.cache.class_names[c] for c in extra]
            n = counted(len(names), "class")
            images = counted(n_extra, "image")
            said.append(f"{n} that the head does not know, left out with {images}: {_few(names)}")
        if missing:
            n = counted(len(missing), "class")
            said.append(f"{n} of the head without an image here: {_few(missing)}")
        return tuple(said)


def other_images(
    head: TrainedHead, cache: Cache, cache_dir: str | os.PathLike[str]
) -> OtherImages | None:
    """Take a cache that differs from the head's in its images alone; None if it does not differ.

    Args:
        head: The head.
        cache: The cache.
        cache_dir: Folder of all caches, where the head's own may be.

    Raises:
        MismatchError: If its features are made otherwise, or none of its classes is the head's.
    """
    identity, known = cache.identity.to_json(), dict(head.cache_identity)
    for said in (identity, known):
        said.pop(VIEWS, None)  # the plain view is the same with and without others
    is_other = identity.pop(_DATASET, None) != known.pop(_DATASET, None)
    if not is_other or identity != known:
        head.require_fit(cache)
        return None
    if known.get("bn", ExtractSpec.bn) != ExtractSpec.bn:
        raise MismatchError(
            f"The backbone of {head.path} was adapted to the images that trained it, and that of "
            f"{cache.path} to its own: their features are not of one function. Nothing was "
            f"evaluated. Use featcache predict, which takes the head's own backbone."
        )
    number_of = {name: k for k, name in enumerate(head.class_names)}
    numbers = [number_of.get(name, _UNKNOWN) for name in cache.class_names]
    if set(numbers) <= {_UNKNOWN}:
        raise MismatchError(
            f"{cache.path} has no class of {head.path}: {_few(cache.class_names)} there, "
            f"{_few(head.class_names)} here. Nothing was evaluated. Classes are matched by name."
        )
    own = own_cache(head, cache_dir)
    return OtherImages(cache, own, head.dataset, head.class_names, np.array(numbers, np.int64))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
