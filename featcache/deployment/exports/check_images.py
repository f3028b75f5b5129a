"""Real images to check a file with: those of a folder, or of the dataset that the head is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.config import MAX_PIXELS
from featcache.core.dataset_names import (
    IMAGES,
    KINDS,
    dataset_name,
)
from featcache.core.paths import expanded, native, places_of
from featcache.core.preprocess import Preprocess
from featcache.errors import DatasetError, UsageError, counted
from featcache.heads.trained_head import TrainedHead
from featcache.images.datasets import (
    at_path,
    dataset_slug,
    is_here,
    load_dataset,
    path_in,
)
from featcache.images.decode_batches import resize_image
from featcache.images.rules import ImageRules
from featcache.images.splits import ArrayImages, Dataset, Split, UnreadableImageError

N_IMAGES = 64
_MOST_LOOKED_AT = 1024  # rows of a split, of which most may be unreadable or of another size
_FIRST_BATCHES = (1, 7)  # then as many as there are: the batch dimension is free
_MOST_BYTES = 64 << 20

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""What a file takes, and what Pillow makes of it: (N, H, W, 3) and (N, h, w, 3)."""


@dataclass(frozen=True, eq=False)
class CheckImages:
    """Images that a file is checked with.

    Attributes:
        dataset: Name of the dataset, which may hold a path.
        splits: The images, those of the first split first.
        size: (height, width) of those that are wanted; None takes every size.
    """

    dataset: str
    splits: tuple[Split, ...]
    size: tuple[int, int] | None

    @property
    def name(self) -> str:
        """Say where they are from, for who exports."""
        return f"{self.dataset} ({self._split_names})"

    @property
    def told(self) -> str:
        """Say it without a path of this machine, for files that travel."""
        return f"{dataset_slug(self.dataset)} ({self._split_names})"

    @property
    def _split_names(self) -> str:
        return ", ".join(split.name for split in self.splits)

    def taken(self, preprocess: Preprocess) -> Iterator[Image.Image]:
        """Yield 64 images in mode RGB, evenly spaced within a split.

        Raises:
            UsageError: If fewer can be read, or have the size.
        """
        rows = [(split, row) for split in self.splits for row in _spread(len(split))]
        n, others = 0, set[tuple[int, ...]]()
        for split, row in rows:
            try:
                image = _image(split, row)
            except UnreadableImageError:
                continue
            found = (image.height, image.width)
            if self.size not in (None, found) or not _can_be_resized(found, preprocess):
                others.add(found)
                continue
            yield image
            n += 1
            if n == N_IMAGES:
                return
        raise self._too_few(f"Of {counted(len(rows), 'image')} of {self.name}, {n}", others)

    def require_enough(self) -> None:
        """Refuse what is too few without a look at any image."""
        n_images = sum(len(split) for split in self.splits)
        if n_images < N_IMAGES:
            raise self._too_few(
                f"{self.name} has {counted(n_images, 'image')}. At most so many", ()
            )
        arrays = [s.images for s in self.splits if isinstance(s.images, ArrayImages)]
        sizes = {images.pixels.shape[1:3] for images in arrays}
        if sizes and self.size not in (None, *sizes):
            raise self._too_few(f"Of {self.name}, none", sizes)

    def _too_few(self, how_many: str, others: Iterable[tuple[int, ...]]) -> UsageError:
        sizes = ", ".join("x".join(map(str, size)) for size in sorted(others)[:3])
        wanted = f" of {self.size[0]}x{self.size[1]} pixels" if self.size is not None else ""
        return UsageError(
            f"{how_many} can be read and fit, but {N_IMAGES} images{wanted} are needed to check "
            f"the file{f' (others have {sizes})' if sizes else ''}. Nothing was written. Give "
            f"other ones with --check FOLDER, or leave the check out with --unchecked."
        )


def images_for_check(
    head: TrainedHead, *, check: str | None, size: tuple[int, int] | None, data_dir: Path
) -> CheckImages:
    """Find the images: those of a folder, or else of the head's dataset.

    Args:
        head: The head.
        check: A folder, or the name of a dataset; None takes the head's.
        size: (height, width) that the file takes; None for any.
        data_dir: Folder of downloaded datasets.

    Raises:
        UsageError: If there are none.
        DatasetError: If `check` has none.
    """
    if check is not None:
        name = dataset_name(check)
        if not name.startswith(KINDS) and expanded(check).is_dir():
            name = f"{IMAGES}{check}"
        dataset = load_dataset(name, data_dir=data_dir)
    else:
        name = native(head.dataset)
        dataset = _its_dataset(head, name, data_dir)
    if not dataset.is_in_memory:
        dataset = dataset.following(ImageRules.of(head.cache_identity))
    images = CheckImages(name, _enough(dataset), size)
    images.require_enough()
    return images


def _enough(dataset: Dataset) -> tuple[Split, ...]:
    """Take splits until there are 64 images: test, val, then the others."""
    taken: list[Split] = []
    for name in dict.fromkeys(("test", "val", *dataset.splits)):
        if name in dataset.splits and sum(map(len, taken)) < N_IMAGES:
            taken.append(dataset.splits[name])
    return tuple(taken)


def batches(
    images: Iterable[Image.Image], preprocess: Preprocess, *, takes_crops: bool
) -> Iterator[Pair]:
    """Put images of one size together, first 1, then 7, then as many as there are.

    Args:
        images: In mode RGB.
        preprocess: How Pillow resizes and crops them.
        takes_crops: Whether the file takes what Pillow made of them.
    """
    waiting: dict[tuple[int, ...], list[Pair]] = {}
    n_given: dict[tuple[int, ...], int] = {}
    for image in images:
        prepared = resize_image(image, preprocess)
        given = prepared if takes_crops else np.array(image)
        group = waiting.setdefault(given.shape, [])
        group.append((given, prepared))
        k = n_given.setdefault(given.shape, 0)
        is_full = len(group) == _FIRST_BATCHES[k] if k < len(_FIRST_BATCHES) else False
        if is_full or len(group) * given.nbytes > _MOST_BYTES:
            n_given[given.shape] += 1
            yield _stacked(group)
            group.clear()
    yield from (_stacked(group) for group in waiting.values() if group)


def _stacked(group: list[Pair]) -> Pair:
    given, prepared = zip(*group, strict=True)
    return np.stack(given), np.stack(prepared)


def _its_dataset(head: TrainedHead, name: str, data_dir: Path) -> Dataset:
    """Open the head's dataset where it is, without a download."""
    for candidate in _places(head, name):
        if is_here(candidate, data_dir=data_dir):
            try:
                return load_dataset(candidate, data_dir=data_dir)
            except (DatasetError, UsageError) as err:
                raise _not_at_hand(name, f" ({err})") from err
    raise _not_at_hand(name, "")


def _places(head: TrainedHead, name: str) -> list[str]:
    """Name the dataset as it may be opened from here: a relative path lay beside the cache."""
    typed = path_in(name)
    if not typed or expanded(typed).is_absolute():
        return [name]
    return [at_path(name, p) for p in places_of(Path(typed), named_in=head.cache_path)]


def _not_at_hand(name: str, why: str) -> UsageError:
    return UsageError(
        f"The images of {name}, with which the file would be checked, are not at hand{why}. "
        f"Nothing was written. Give others with --check FOLDER, say where downloaded ones are with "
        f"--data-dir, or leave the check out with --unchecked."
    )


def _spread(n: int) -> list[int]:
    """Order rows so that the first 64 are evenly spaced, and so are all that are looked at."""
    n_looked_at = min(n, _MOST_LOOKED_AT)
    rows = [i * n // n_looked_at for i in range(n_looked_at)]
    first = {i * n_looked_at // N_IMAGES for i in range(N_IMAGES)}
    is_late = [i not in first for i in range(n_looked_at)]
    return [
        row for late in (False, True) for row, at in zip(rows, is_late, strict=True) if at == late
    ]


def _image(split: Split, row: int) -> Image.Image:
    if isinstance(split.images, ArrayImages):
        return Image.fromarray(split.images.pixels[row])
    return split.images.decode(row)


def _can_be_resized(size: tuple[int, int], preprocess: Preprocess) -> bool:
    """Tell a line of pixels, which would grow without bounds."""
    height, width = preprocess.geometry(size).size
    return height * width <= MAX_PIXELS
