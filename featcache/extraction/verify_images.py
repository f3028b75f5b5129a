"""Name the images of a cache that are no longer those it was made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.config import IMPORTED, ExtractSpec
from featcache.core.arguments import text
from featcache.core.dataset_names import dataset_name
from featcache.core.reporting import NoteCallback, silent
from featcache.errors import UsageError
from featcache.extraction.whereabouts import dataset_of
from featcache.features.listing import listing_difference
from featcache.images.datasets import load_dataset
from featcache.images.rules import ImageRules
from featcache.images.splits import Dataset, Split
from featcache.store import Cache, CacheSplit, open_cache, read_state, require_fields

_UNKNOWN_OF_1 = (
    "some image changed. A cache of format version 1 cannot say which. A new extract makes one "
    "that can"
)
_UNKNOWN = "some image has another size now, and the same bytes. A cache cannot say which"


@dataclass(frozen=True)
class ChangedImage:
    """An image that is not the one which the cache was made from.

    Attributes:
        split: Its split.
        row: Its row in the cache; None if the cache has none for it.
        id: Its path within the dataset, or its index.
        what: What is different.
    """

    split: str
    row: int | None
    id: str
    what: str


@dataclass(frozen=True)
class ImagesReport:
    """What `verify_images` found.

    Attributes:
        path: The cache.
        dataset: Where its images are.
        n_images: Images that are there now.
        changed: Those that are others, gone, new, or of another label, in the order of the cache.
        difference: What differs beside single images, or all that is known of a cache of format
            version 1; empty if nothing does.
    """

    path: Path
    dataset: str
    n_images: int
    changed: tuple[ChangedImage, ...]
    difference: str

    @property
    def are_same(self) -> bool:
        """Whether the images are those that the cache was made from."""
        return not self.changed and not self.difference


def verify_images(
    path: str | os.PathLike[str],
    *,
    dataset: str | os.PathLike[str] | Dataset | None = None,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: NoteCallback | None = None,
) -> ImagesReport:
    """Read the images of a complete cache again, and name those that changed since.

    Args:
        path: The cache.
        dataset: Where its images are now, or what `featcache.make_dataset` made of them; None takes
            what the cache names. A relative path is looked for beside the cache and above it before
            the working directory.
        data_dir: Folder of downloaded datasets.
        on_progress: Called with (images read, images to read).
        on_note: Told where the images are.

    Raises:
        UsageError: If the cache was imported, so that it has no images.
        DatasetError: If the images are not there.
        FeatcacheError: What `open_cache` raises.
    """
    cache = open_cache(path)
    if cache.identity.backbone == IMPORTED:
        raise UsageError(f"{cache.path} was imported, so it has no images. Nothing was checked.")
    require_fields(cache.path, {**cache.identity, **cache.provenance}, "dataset_sha256", "limit")
    if dataset is None:
        dataset = dataset_of(cache.path, read_state(cache.path).manifest)
    named = dataset if isinstance(dataset, Dataset) else dataset_name(dataset)
    name = named.name if isinstance(named, Dataset) else named
    (on_note or silent)(f"opening {name}")
    listing = load_dataset(named, data_dir=text("--data-dir", data_dir)).with_splits(cache.splits)
    images = listing.following(ImageRules.of(cache.identity)).limited(cache.provenance.limit)
    sha256, images = images.identified(on_progress=on_progress)
    changed: tuple[ChangedImage, ...] = ()
    difference = ""
    if sha256 != cache.identity["dataset_sha256"]:
        changed = tuple(_changed(cache, images))
        if not changed or not _is_of_same_kind(listing, cache):
            difference = listing_difference(listing, cache) or _unknown(cache)
    n_images = sum(len(split) for split in images.splits.values())
    return ImagesReport(cache.path, name, n_images, changed, difference)


def _is_of_same_kind(listing: Dataset, cache: Cache) -> bool:
    """Tell whether classes and splits are the same, so that single images say all."""
    return listing.class_names == cache.class_names and list(listing.splits) == list(cache.splits)


def _unknown(cache: Cache) -> str:
    has_digests = all(rows.image_sha256 is not None for rows in cache.splits.values())
    return _UNKNOWN if has_digests else _UNKNOWN_OF_1


def _changed(cache: Cache, images: Dataset) -> Iterator[ChangedImage]:
    has_same_classes = images.class_names == cache.class_names
    for name, rows in cache.splits.items():
        if rows.image_sha256 is not None and name in images.splits:
            labels = rows.labels if has_same_classes else None
            yield from _changed_in(rows, rows.image_sha256, labels, images.splits[name])


def _changed_in(
    rows: CacheSplit,
    kept: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64] | None,
    split: Split,
) -> Iterator[ChangedImage]:
    """Compare two splits image by image, by their ids; labels only where both mean the same."""
    there = {image_id: i for i, image_id in enumerate(split.ids)}
    now = split.image_sha256()
    there_labels = None if labels is None else split.labels
    for row, image_id in enumerate(rows.ids):
        i = there.pop(image_id, None)
        what = "it is gone" if i is None else _what_changed(kept[row], now[i])
        if i is not None and _label_of(labels, row) != _label_of(there_labels, i):
            what = f"{what}, and has another label" if what else "it has another label now"
        if what:
            yield ChangedImage(rows.name, row, image_id, what)
    for image_id in there:
        yield ChangedImage(rows.name, None, image_id, "it is new")


def _label_of(labels: npt.NDArray[np.int64] | None, row: int) -> int | None:
    return None if labels is None else int(labels[row])


def _what_changed(kept: npt.NDArray[np.uint8], now: npt.NDArray[np.uint8]) -> str:
    if np.array_equal(kept, now):
        return ""
    if not np.any(now):
        return "it can no longer be read"
    if not np.any(kept):
        return "it could not be read then, and can be now"
    return "it holds other bytes now"
