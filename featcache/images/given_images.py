"""Images that a Python object gives one at a time, such as a torch Dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.core.arguments import option_name
from featcache.core.identity import SHA256_BYTES
from featcache.errors import DatasetError, MismatchError, UsageError
from featcache.images.rules import ImageRules
from featcache.images.splits import Look
from featcache.images.stat_index import KnownFiles


@dataclass(frozen=True, eq=False)
class GivenImages:
    """Items of an object with `__len__` and `__getitem__`, which are (image, label).

    Attributes:
        items: The object.
        rows: N indices of items.
        title: What it is called in messages.
        sizes: (N, 2) int64, height and width of each as it was first given.
        expected: N SHA-256 of the (H, W, 3) pixels as they were first given, 32 bytes each.
    """

    items: Any
    rows: npt.NDArray[np.int64]
    title: str
    sizes: npt.NDArray[np.int64]
    expected: bytes = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Keep these rows, in this order."""
        expected = b"".join(self._expected_of(int(row)) for row in rows)
        return replace(self, rows=self.rows[rows], sizes=self.sizes[rows], expected=expected)

    def following(self, rules: ImageRules) -> Self:
        """Give them as they are.

        Raises:
            UsageError: If rules would change something; they are for files.
        """
        for option, value in rules.identity().items():
            raise UsageError(
                f"{option_name(option)} {value} is for image files, but the images of {self.title} "
                f"come from Python. Nothing was started. Leave the option out."
            )
        return self

    def path_of(self, row: int) -> str:
        """Name one item, for messages."""
        return f"item {self.rows[row]} of {self.title}"

    @property
    def has_heic(self) -> bool:
        """Whether libheif decodes some of them: none."""
        return False

    def expecting(self, digests: Sequence[bytes]) -> Self:
        """Return these images: they are compared with what was first given."""
        return self

    def looks(self, known: KnownFiles | None = None) -> Iterator[Look]:
        """Yield size and digest of each image as it was first given."""
        for row, size in enumerate(self.sizes.tolist()):
            yield Look(repr(size).encode() + self._expected_of(row))

    def decode(self, row: int) -> Image.Image:
        """Ask for one image again.

        Raises:
            DatasetError: If it is not given.
            MismatchError: If it is another than the first time.
        """
        image, _ = item_of(self.items, int(self.rows[row]), self.title)
        pixels = rgb_pixels(image, what=self.path_of(row), kept="All acknowledged rows are kept.")
        is_size = pixels.shape[:2] == tuple(self.sizes[row])
        if not is_size or pixel_digest(pixels) != self._expected_of(row):
            raise MismatchError(
                f"{self.path_of(row)} gives another image the second time than the first. Nobody "
                f"could make its row again. All acknowledged rows are kept. Take random transforms "
                f"out of the dataset, and run the same command again."
            )
        return Image.fromarray(pixels)

    def _expected_of(self, row: int) -> bytes:
        return self.expected[row * SHA256_BYTES : (row + 1) * SHA256_BYTES]


def item_of(items: Any, index: int, title: str) -> tuple[Any, Any]:
    """Ask for one item, which must be (image, label).

    Raises:
        DatasetError: If the object raises, or gives something else.
    """
    try:
        item = items[index]
    except Exception as err:  # the object's own code
        said = " ".join(str(err).split())[:200]
        raise DatasetError(
            f"Item {index} of {title} cannot be had: {type(err).__name__}: {said}. All "
            f"acknowledged rows are kept."
        ) from err
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DatasetError(
            f"Item {index} of {title} is {type(item).__name__}; expected (image, label). Nothing "
            f"was extracted."
        )
    return item[0], item[1]


def rgb_pixels(image: Any, *, what: str, kept: str) -> npt.NDArray[np.uint8]:
    """Bring an image to (H, W, 3) uint8 without changing a pixel.

    Args:
        image: A PIL image; a uint8 array (H, W), (H, W, 1) or (H, W, 3); a tensor of torch with the
            channels first, uint8, or float as `ToTensor` makes it: grey levels divided by 255.
        what: Its name, for messages.
        kept: What is kept or was not done, for messages.

    Raises:
        DatasetError: If it is something else.
    """
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    pixels = np.asarray(image.detach().cpu().numpy() if hasattr(image, "detach") else image)
    if hasattr(image, "detach") and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if hasattr(image, "detach") and pixels.dtype.kind == "f":
        levels = np.rint(pixels * 255)
        if np.abs(pixels * 255 - levels).max(initial=0) > 1e-3 or not _are_levels(levels):
            raise DatasetError(
                f"{what} has values that are no grey levels divided by 255, as behind Normalize. "
                f"{kept} Give the images as they are before it: featcache prepares them for the "
                f"backbone."
            )
        pixels = levels.astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    is_image = pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.size > 0
    if pixels.dtype != np.uint8 or not is_image:
        raise DatasetError(
            f"{what} is {pixels.dtype} of shape {pixels.shape}; expected a PIL image, a uint8 "
            f"array (H, W, 3) or (H, W), or a tensor (3, H, W). {kept}"
        )
    whole = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return np.ascontiguousarray(whole)


def pixel_digest(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Hash the (H, W, 3) pixels of an image, and not its size: as `image_sha256` of an array."""
    return hashlib.sha256(pixels.data).digest()


def _are_levels(levels: npt.NDArray[Any]) -> bool:
    return bool(np.isfinite(levels).all() and levels.min() >= 0 and levels.max() <= 255)
