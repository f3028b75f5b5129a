"""What a dataset is: splits of uint8 RGB images with labels and ids."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.config import TOLD_OF_HEADERS
from featcache.core.arguments import option_name
from featcache.errors import UsageError, counted
from featcache.images.rules import ImageRules

if TYPE_CHECKING:
    from featcache.images.stat_index import KnownFiles


class Header(NamedTuple):
    """What the header of an image file says beside its pixels.

    Attributes:
        is_clipped: Whether values beyond 255 become 255, and those below 0 become 0.
        is_turned: Whether EXIF says that the pixels are not upright.
    """

    is_clipped: bool = False
    is_turned: bool = False


class Look(NamedTuple):
    """What is seen of an image, or of a block of images, when a dataset is hashed.

    Attributes:
        digest: Changes with the image.
        header: What its file says beside the pixels.
    """

    digest: bytes
    header: Header = Header()


UNLABELLED = "all"
"""The one split of images that are neither labelled nor parted."""


class UnreadableImageError(Exception):
    """One image cannot be decoded; the text is the reason that the cache records."""


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size, all in memory.

    Attributes:
        pixels: (N, H, W, 3) uint8.
    """

    pixels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def path_of(self, row: int) -> str:
        """Name one image, for messages."""
        return f"image {row}"

    def decode(self, row: int) -> Image.Image:
        """Give one image in mode RGB."""
        return Image.fromarray(self.pixels[row])

    def take(self, rows: npt.NDArray[np.int64]) -> ArrayImages:
        """Keep these rows, in this order."""
        return ArrayImages(np.ascontiguousarray(self.pixels[rows]))

    def looks(self, known: KnownFiles | None = None) -> Iterator[Look]:
        """Yield bytes that change when any pixel, the order or the image size does."""
        yield Look(repr(self.pixels.shape).encode())
        for start in range(0, len(self.pixels), 1024):
            block = np.ascontiguousarray(self.pixels[start : start + 1024])
            yield Look(hashlib.sha256(block.data).digest())

    @property
    def has_heic(self) -> bool:
        """Whether libheif decodes some of them: none."""
        return False

    def expecting(self, digests: Sequence[bytes]) -> ArrayImages:
        """Return these images: what is in memory is what was hashed."""
        return self


class FileImages(Protocol):
    """Images that are decoded one at a time, in worker processes; picklable."""

    @property
    def expected(self) -> bytes:
        """N SHA-256 of the files' bytes, of 32 bytes, zeros where unreadable; empty if unknown."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: npt.NDArray[np.int64]) -> FileImages:
        """Keep these rows, in this order."""
        ...

    def following(self, rules: ImageRules) -> FileImages:
        """Read them by these rules."""
        ...

    def path_of(self, row: int) -> str:
        """Where one image lies, for messages."""
        ...

    def decode(self, row: int) -> Image.Image:
        """Open one image in mode RGB.

        Raises:
            UnreadableImageError: If it cannot be decoded, with the reason.
            MismatchError: If the file is another than was expected.
            StorageError: If the disk fails, so that the row must not be given up.
        """
        ...

    def looks(self, known: KnownFiles | None = None) -> Iterator[Look]:
        """Yield, per image, bytes that change when its file's content does, and its header.

        Args:
            known: What was read before; it takes up what is read now. None reads all.
        """
        ...

    @property
    def has_heic(self) -> bool:
        """Whether libheif decodes some of them."""
        ...

    def expecting(self, digests: Sequence[bytes]) -> FileImages:
        """Refuse to decode a file that is not the one which `digests` gave."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a dataset.

    Attributes:
        name: "train", "val", "test", ...
        images: The images, in order.
        labels: (N,) int64, indices into the dataset's class names; None for images without labels.
        ids: N ids, unique within the split: the relative path, or the index. Bytes of a file name
            that are not UTF-8 stand as surrogate escapes.
    """

    name: str
    images: ArrayImages | FileImages
    labels: npt.NDArray[np.int64] | None
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def limited(self, n: int) -> Split:
        """Keep at most `n` images, evenly spaced: a folder sorted by class keeps its classes."""
        if n >= len(self):
            return self
        return self._taken(np.arange(n, dtype=np.int64) * len(self) // n)

    def cut(self, start: int, stop: int) -> Split:
        """Keep the rows start..stop."""
        return self._taken(np.arange(start, stop, dtype=np.int64))

    def _taken(self, rows: npt.NDArray[np.int64]) -> Split:
        return replace(
            self,
            images=self.images.take(rows),
            labels=None if self.labels is None else self.labels[rows],
            ids=[self.ids[int(i)] for i in rows],
        )

    def image_sha256(self) -> npt.NDArray[np.uint8]:
        """Give the SHA-256 of each image, (N, 32), once the dataset is `identified`.

        It is that of a file's bytes, zeros if it could not be read, or of the (H, W, 3) pixels of
        an image from Python.
        """
        if isinstance(self.images, ArrayImages):
            digests = b"".join(hashlib.sha256(image).digest() for image in self.images.pixels)
        else:
            digests = self.images.expected
        return np.frombuffer(digests, np.uint8).reshape(len(self.images), 32)


@dataclass(frozen=True, eq=False)
class Dataset:
    """An image dataset, with labels in all of its splits or in none.

    Attributes:
        name: As the user gave it, e.g. "cifar10" or "folder:pets".
        slug: The name as a folder name.
        class_names: K names; label k is class_names[k]. None where there are no labels.
        splits: By name, "train" first. All have their images in memory, or all in files.
        notes: What a user should be told about it, e.g. skipped files.
        told: How many images have which header, by the names of `TOLD_OF_HEADERS`. Empty if they
            were not read yet, or are arrays.
    """

    name: str
    slug: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()
    told: Mapping[str, int] = field(default_factory=dict)

    def limited(self, n: int | None) -> Dataset:
        """Keep at most `n` images of each split; None keeps all."""
        if n is None:
            return self
        return replace(self, splits={name: s.limited(n) for name, s in self.splits.items()})

    def cut(self, rows: Mapping[str, tuple[int, int]]) -> Dataset:
        """Keep the rows start..stop of the splits that are named here, as a share of a job does."""
        return replace(self, splits={name: self.splits[name].cut(*rows[name]) for name in rows})

    def with_splits(self, names: Container[str]) -> Dataset:
        """Keep the splits of these names, or all if none of them is here."""
        kept = {name: split for name, split in self.splits.items() if name in names}
        return replace(self, splits=kept or self.splits)

    @property
    def has_heic(self) -> bool:
        """Whether libheif decodes some of its images."""
        return any(split.images.has_heic for split in self.splits.values())

    @property
    def summary(self) -> str:
        """Say in one line which images and classes it has."""
        counts = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        most = 10
        names = ", ".join(repr(name) for name in self.class_names[:most])
        more = f" and {n} more" if (n := len(self.class_names) - most) > 0 else ""
        if not self.class_names:
            return f"images: {counts}; without labels"
        return f"images: {counts}; {counted(len(self.class_names), 'class')}: {names}{more}"

    def following(self, rules: ImageRules) -> Dataset:
        """Read image files by these rules.

        Raises:
            UsageError: If there are no image files, and rules that would change something.
        """
        if self.is_in_memory:
            if asked := rules.identity():
                option, value = next(iter(asked.items()))
                raise UsageError(
                    f"{option_name(option)} {value} is for image files, but the images of "
                    f"{self.name} come as arrays. Nothing was started. Leave the option out."
                )
            return self
        splits = {
            name: split
            if isinstance(split.images, ArrayImages)
            else replace(split, images=split.images.following(rules))
            for name, split in self.splits.items()
        }
        return replace(self, splits=splits)

    @property
    def is_in_memory(self) -> bool:
        """Whether all images are arrays, at their own size."""
        return all(isinstance(split.images, ArrayImages) for split in self.splits.values())

    def identified(
        self,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        known: KnownFiles | None = None,
    ) -> Identified:
        """Hash class names and, per split, ordered ids, labels and image content (SHA-256).

        Args:
            on_progress: Told how many images are done, and of how many.
            known: Files that it knows are not read; those that are, it knows then. None reads all.
        """
        n_total = sum(len(split) for split in self.splits.values())
        n_done = 0
        sha = hashlib.sha256()
        _update(sha, len(self.class_names).to_bytes(8, "little"))
        _update(sha, *(name.encode(errors="surrogateescape") for name in self.class_names))
        splits = {}
        n_clipped = n_turned = 0
        for name, split in self.splits.items():
            labels = b"" if split.labels is None else np.ascontiguousarray(split.labels).tobytes()
            _update(sha, split.name.encode(), labels)
            _update(sha, *(i.encode(errors="surrogateescape") for i in split.ids))
            digests = []
            for i, (digest, header) in enumerate(split.images.looks(known)):
                digests.append(digest)
                n_clipped += header.is_clipped
                n_turned += header.is_turned
                if on_progress is not None and i % 256 == 0:
                    on_progress(min(n_done + i, n_total), n_total)
            _update(sha, *digests)
            splits[name] = replace(split, images=split.images.expecting(digests))
            n_done += len(split)
            if on_progress is not None:
                on_progress(n_done, n_total)
        told = {}
        if not self.is_in_memory:
            told = dict(zip(TOLD_OF_HEADERS, (n_clipped, n_turned), strict=True))
        return Identified(sha.hexdigest(), replace(self, splits=splits, told=told))

    def digest(self) -> str:
        """Give the SHA-256 of `identified`, hex."""
        return self.identified().sha256


class Identified(NamedTuple):
    """A dataset that was hashed.

    Attributes:
        sha256: Changes with its class names, ids, labels and the content of its images; hex.
        dataset: The same dataset. It refuses an image file that changed since.
    """

    sha256: str
    dataset: Dataset


def _update(sha: hashlib._Hash, *parts: bytes) -> None:
    """Add each part behind its length, so that no two lists of parts hash alike."""
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
