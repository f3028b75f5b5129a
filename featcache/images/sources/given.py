"""Images from Python: arrays, or any object that gives (image, label) by index."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.dataset_names import PYTHON, imported_slug
from featcache.errors import DatasetError, UsageError, clipped, counted
from featcache.images.given_images import GivenImages, item_of, pixel_digest, rgb_pixels
from featcache.images.layout import SPLIT_OF, SPLIT_ORDER
from featcache.images.sources.source import DatasetInfo, Source
from featcache.images.splits import UNLABELLED, ArrayImages, Dataset, Split

_Read = tuple[ArrayImages | GivenImages, list[int | str] | None]
"""The images of one split, and its labels as they were given."""


class Given(Source):
    """`python:NAME`, which names caches of images that only a program can give."""

    prefix = PYTHON

    def slug(self, name: str) -> str:
        """Name the folder of its caches and runs.

        Raises:
            UsageError: If it cannot be the name of a folder.
        """
        return f"python-{imported_slug(name.partition(':')[2], said_by='name')}"

    def listed(self, *, data_dir: str | Path | None) -> list[DatasetInfo]:
        """Describe none: there is nothing that a name alone opens."""
        return []

    def is_here(self, name: str, *, data_dir: str | Path) -> bool:
        """Tell that a name alone brings back no images."""
        return False

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"The images of {name} were given from Python, so their name alone opens nothing. "
            f"Nothing was done. Make the dataset again (featcache.make_dataset), and give it in "
            f"place of its name."
        )


def make_dataset(splits: Any, *, name: str, class_names: Sequence[str] | None = None) -> Dataset:
    """Make a dataset of arrays, or of objects that give (image, label) by index.

    Arrays of images of one size stay in memory. From an object, such as a torch Dataset, every
    item is asked for once here, and once again at the extraction, where another image than the
    first time is refused. Its images may be of any sizes: PIL images, uint8 arrays, or tensors
    with the channels first.

    Args:
        splits: (images, labels) with images (N, H, W, 3) or (N, H, W) uint8 and N labels, or None
            for images without labels; or an object with `__len__` and `__getitem__`; or several of
            one kind by the names "train", "val" and "test", or as folders may be called. One
            alone is "train", or "all" without labels.
        name: 1 to 64 letters, digits, dots, dashes and underscores; caches go by it.
        class_names: Names of the labels 0, 1, ...; None takes the object's `classes`, or the
            numbers. Labels may be these names instead.

    Returns:
        What `extract` takes as its dataset.

    Raises:
        UsageError: If there is no train, or another split than these, or arrays beside objects, or
            a name is no name.
        DatasetError: If an image or a label is not as expected.

    Example:
        >>> import numpy as np
        >>> pixels = np.zeros((4, 8, 8, 3), np.uint8)
        >>> dataset = make_dataset((pixels, [0, 1, 0, 1]), name="mine", class_names=["a", "b"])
        >>> dataset.summary
        "images: train 4; 2 classes: 'a', 'b'"
    """
    full_name = f"{PYTHON}{name}"
    slug = Given().slug(full_name)
    by_name = splits if isinstance(splits, Mapping) else {"train": splits}
    given = {SPLIT_OF.get(str(said).lower(), said): images for said, images in by_name.items()}
    if len(given) < len(by_name):
        raise UsageError(
            f"Of the splits {', '.join(map(repr, by_name))}, two mean the same one. Nothing was "
            f"done. Leave one of them out."
        )
    if "train" not in given or set(given) - set(SPLIT_ORDER):
        raise UsageError(
            f"The splits are {', '.join(map(repr, given)) or 'none'}, but must be of "
            f"{', '.join(SPLIT_ORDER)}, with 'train' among them. Nothing was done."
        )
    _require_one_kind(given, full_name)
    read = {
        split: _read(given[split], f"split {split!r} of {full_name}")
        for split in SPLIT_ORDER
        if split in given
    }
    if any(labels is None for _, labels in read.values()):
        if class_names:
            raise UsageError(
                f"class_names names {counted(len(class_names), 'class')}, but {full_name} has no "
                f"labels. Nothing was done. Give labels, or no class_names."
            )
        return _unlabelled(full_name, slug, read, is_one=not isinstance(splits, Mapping))
    names = _class_names(class_names, given["train"], [labels or [] for _, labels in read.values()])
    made = {
        split: Split(
            split,
            images,
            _numbers(labels or [], names, f"split {split!r} of {full_name}"),
            _numbered(images),
        )
        for split, (images, labels) in read.items()
    }
    return Dataset(full_name, slug, names, made)


def _require_one_kind(given: Mapping[str, Any], name: str) -> None:
    arrays = [split for split in given if _is_arrays(given[split])]
    objects = [split for split in given if split not in arrays]
    if arrays and objects:
        raise UsageError(
            f"Of {name}, {' and '.join(map(repr, arrays))} came as arrays, and "
            f"{' and '.join(map(repr, objects))} as an object; expected one kind for all splits, "
            f"so that all are prepared alike. Nothing was done. Give list(zip(images, labels)) in "
            f"place of (images, labels)."
        )


def _is_arrays(given: Any) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2 and hasattr(given[0], "shape")


def _unlabelled(name: str, slug: str, read: Mapping[str, _Read], *, is_one: bool) -> Dataset:
    """Make a dataset of which no split has labels."""
    if any(labels is not None for _, labels in read.values()):
        raise DatasetError(
            f"Some splits of {name} have labels, and some have none; expected all or none. Nothing "
            f"was extracted."
        )
    made = {
        split: Split(split, images, None, _numbered(images))
        for split, (images, _) in ((UNLABELLED if is_one else s, r) for s, r in read.items())
    }
    return Dataset(name, slug, (), made)


def _numbered(images: ArrayImages | GivenImages) -> list[str]:
    return [str(i) for i in range(len(images))]


def _read(given: Any, title: str) -> _Read:
    """Take the images of one split, and its labels as they are."""
    if _is_arrays(given):
        images, labels = given
        pixels = _pixels(images, title)
        if labels is None:
            return ArrayImages(pixels), None
        if len(labels) != len(pixels):
            raise DatasetError(
                f"{title} has {counted(len(pixels), 'image')} and {counted(len(labels), 'label')}; "
                f"expected as many of each. Nothing was extracted."
            )
        return ArrayImages(pixels), [_label(label, title) for label in labels]
    try:
        n = len(given)
    except TypeError as err:
        raise DatasetError(
            f"{title} is {type(given).__name__}; expected arrays (images, labels), or an object "
            f"with __len__ and __getitem__. Nothing was extracted."
        ) from err
    sizes, digests, labels = [], [], []
    for i in range(n):
        image, label = item_of(given, i, title)
        pixels = rgb_pixels(image, what=f"Item {i} of {title}", kept="Nothing was extracted.")
        sizes.append(pixels.shape[:2])
        digests.append(pixel_digest(pixels))
        labels.append(_label(label, title))
    rows, all_sizes = np.arange(n, dtype=np.int64), np.array(sizes, np.int64).reshape(n, 2)
    return GivenImages(given, rows, title, all_sizes, b"".join(digests)), labels


def _pixels(images: Any, title: str) -> npt.NDArray[np.uint8]:
    """Bring arrays to (N, H, W, 3) uint8."""
    pixels = np.asarray(images)
    if pixels.ndim == 3:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or not pixels.size:
        raise DatasetError(
            f"The images of {title} are {pixels.dtype} of shape {pixels.shape}; expected uint8 of "
            f"shape (N, H, W, 3) or (N, H, W), and at least one. Nothing was extracted."
        )
    return np.ascontiguousarray(pixels)


def _label(label: Any, title: str) -> int | str:
    if isinstance(label, str):
        return label
    try:
        return operator.index(label)  # of numpy and torch as well
    except TypeError as err:
        raise DatasetError(
            f"{title} has the label {clipped(repr(label), 60)}; expected a whole number or the "
            f"name of a class. Nothing was extracted."
        ) from err


def _class_names(
    said: Sequence[str] | None, train: Any, labels: Sequence[list[int | str]]
) -> tuple[str, ...]:
    """Name the classes: as said, as the object has them, or by the labels themselves."""
    known = getattr(train, "classes", None) if said is None else said
    if known is not None:
        names = tuple(map(str, known))
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise UsageError(
                f"The class {clipped(repr(twice[0]), 60)} is named twice. Nothing was done. Give "
                f"each class a name of its own with class_names."
            )
        return names
    there = {label for of_split in labels for label in of_split}
    texts = sorted(label for label in there if isinstance(label, str))
    numbers = [label for label in there if isinstance(label, int)]
    return tuple(texts) if texts else tuple(str(k) for k in range(max(numbers, default=-1) + 1))


def _numbers(
    labels: Sequence[int | str], class_names: Sequence[str], title: str
) -> npt.NDArray[np.int64]:
    number_of = {name: k for k, name in enumerate(class_names)}
    numbers = [number_of.get(label, -1) if isinstance(label, str) else label for label in labels]
    for i, number in enumerate(numbers):
        if not 0 <= number < len(class_names):
            raise DatasetError(
                f"Item {i} of {title} has the label {clipped(repr(labels[i]), 60)}, which is none "
                f"of the {len(class_names)} classes. Nothing was extracted."
            )
    return np.array(numbers, np.int64)
