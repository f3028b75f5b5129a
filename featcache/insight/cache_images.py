"""The images of a cache, found again: only those that it was made from, and none is downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from PIL import Image

from featcache.config import IMPORTED, ExtractSpec
from featcache.core.arguments import text
from featcache.core.dataset_names import PYTHON, dataset_name
from featcache.core.reporting import NoteCallback, silent
from featcache.errors import DatasetError, FeatcacheError, MismatchError, UsageError
from featcache.extraction.whereabouts import dataset_of
from featcache.images.datasets import is_here, load_dataset, path_in
from featcache.images.given_images import GivenImages, pixel_digest
from featcache.images.rules import ImageRules
from featcache.images.splits import ArrayImages, Dataset, FileImages, UnreadableImageError
from featcache.images.stat_index import KnownFiles
from featcache.store import Cache, read_state

_ANOTHER = "another image is in its place now"
_GONE = "its image is gone"


class CacheImages:
    """The images of a cache, as its dataset has them now.

    Attributes:
        cache: The cache.
        dataset: All of them, some of which may be others now; None if there are none.
        reason: Why there are none, in a sentence; empty if there are.
    """

    def __init__(self, cache: Cache, dataset: Dataset | None, *, reason: str = "") -> None:
        """Take what `images_of` found."""
        self.cache = cache
        self.reason = reason
        self.dataset = dataset
        self._places: dict[str, Mapping[str, int]] = {}

    def image(self, split: str, row: int) -> Image.Image:
        """Decode the image of a row by the rules of the cache.

        Args:
            split: Its split.
            row: Its number in the split.

        Returns:
            The whole image in mode RGB, at its own size.

        Raises:
            UnreadableImageError: If it is gone, or another, or cannot be read; its text says so.
        """
        rows = self.cache[split]
        image_id = rows.ids[row]
        if self.dataset is None:
            raise UnreadableImageError(self.reason)
        if not rows.valid[row]:
            raise UnreadableImageError(rows.failures[image_id])
        place = self._places_in(split).get(image_id)
        if place is None:
            raise UnreadableImageError(_GONE)
        digests = rows.image_sha256
        digest = b"" if digests is None else digests[row].tobytes()
        try:
            return _decoded(self.dataset.splits[split].images, place, digest)
        except MismatchError as err:
            raise UnreadableImageError(_ANOTHER) from err
        except FeatcacheError as err:
            raise UnreadableImageError(_GONE) from err
        except MemoryError as err:
            raise UnreadableImageError("there is not enough memory to decode it") from err

    def _places_in(self, split: str) -> Mapping[str, int]:
        """Tell where the images of a split are in the dataset, by their ids."""
        assert self.dataset is not None, "asked only where there is one"
        if split not in self._places:
            there = self.dataset.splits.get(split)
            ids = () if there is None else there.ids
            self._places[split] = {image_id: i for i, image_id in enumerate(ids)}
        return self._places[split]


def images_of(
    cache: Cache,
    *,
    dataset: str | os.PathLike[str] | Dataset | None = None,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    on_note: NoteCallback = silent,
) -> CacheImages:
    """Find the images of a cache. Where they are not, the answer says why, and nothing is raised.

    An image is that of a row if their digests are equal. A cache of format version 1 has none; then
    all images are read, and are those of the cache if the digest of the dataset is equal.

    Args:
        cache: The cache.
        dataset: Where its images are now, or what `featcache.make_dataset` made of them; None takes
            what the cache names, as `featcache.verify_images` finds it.
        data_dir: Folder of downloaded datasets.
        on_note: Told if all images are read.
    """
    try:
        return CacheImages(cache, _found(cache, dataset, text("--data-dir", data_dir), on_note))
    except FeatcacheError as err:
        return CacheImages(cache, None, reason=str(err))


def _found(
    cache: Cache,
    given: str | os.PathLike[str] | Dataset | None,
    data_dir: str,
    on_note: NoteCallback,
) -> Dataset:
    """Open the dataset of a cache.

    Raises:
        FeatcacheError: If it is not to be had, or as a whole another, with the reason.
    """
    if cache.identity.backbone == IMPORTED:
        raise UsageError(f"{cache.path.name} was imported as features, so it has no images.")
    if isinstance(given, Dataset):
        images = given
    else:
        name = dataset_name(given) if given is not None else _named_in(cache)
        if name.startswith(PYTHON):
            raise UsageError(
                f"The images of {name} were given from Python, and its name alone brings none back."
            )
        if not is_here(name, data_dir=data_dir):
            where = "there" if path_in(name) else f"in the data folder {data_dir!r}"
            raise DatasetError(f"The images of {name} are no longer {where}.")
        images = load_dataset(name, data_dir=data_dir)
    images = images.with_splits(cache.splits).following(ImageRules.of(cache.identity))
    if all(rows.image_sha256 is not None for rows in cache.splits.values()):
        return images
    return _same_as_a_whole(cache, images, on_note)


def _named_in(cache: Cache) -> str:
    return dataset_of(cache.path, read_state(cache.path).manifest)


def _same_as_a_whole(cache: Cache, images: Dataset, on_note: NoteCallback) -> Dataset:
    """Compare all images with those of a cache that holds no digest of each."""
    on_note(
        f"{cache.path.name} holds no digest of each image, as format version 2 does: all images "
        f"are read, to see that they are those of its rows"
    )
    known = KnownFiles(on_note=on_note)
    sha256, found = images.limited(cache.provenance.limit).identified(known=known)
    known.save()
    if sha256 != cache.identity.get("dataset_sha256"):
        raise MismatchError(f"The images of {images.name} are not all those of the cache any more.")
    return found


def _decoded(images: ArrayImages | FileImages, place: int, digest: bytes) -> Image.Image:
    """Decode one image, if its digest is the one that is expected; an empty one fits all.

    Raises:
        MismatchError: If it is another.
        UnreadableImageError: If it cannot be decoded.
        FeatcacheError: If it cannot be had.
    """
    one = images.take(np.array([place], np.int64))
    if isinstance(one, ArrayImages):
        image = Image.fromarray(one.pixels[0])
    else:
        image = (one.expecting([digest]) if digest else one).decode(0)
    is_of_pixels = isinstance(one, ArrayImages | GivenImages)
    if is_of_pixels and digest and pixel_digest(np.array(image)) != digest:
        raise MismatchError(_ANOTHER)
    return image
