"""Views of an image: what is cut out of it, and whether it is mirrored; no torch.

Each view is drawn by a counter-based generator, from a seed, the id of the image and the view's
number alone. So it does not depend on other images, other views or the run that computes it. The
arithmetic is of whole numbers, +, *, / and sqrt, which give the same bits on every machine.
docs/format.md says it step by step.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from featcache.core.views import Views

_TITLE = b"featcache view 1\n"
_LEAST_AREA = 0.6
_MOST_RATIO = 4 / 3  # of the longer side of a crop to the shorter
_TRIES = 10  # as torchvision's RandomResizedCrop


class Box(NamedTuple):
    """A part of an image, in its pixels, as PIL's `crop` takes it."""

    left: int
    top: int
    right: int
    bottom: int


class View(NamedTuple):
    """One view of an image.

    Attributes:
        box: The part that is resized to the backbone's input; None is the whole image, prepared as
            the plain view.
        is_mirrored: Whether left and right are then exchanged.
    """

    box: Box | None = None
    is_mirrored: bool = False


PLAIN = View()


@dataclass(frozen=True, eq=False)
class SplitViews:
    """The views of the images of one split.

    Attributes:
        views: How they are drawn.
        n: How many of each image.
        ids: The images' ids.
    """

    views: Views
    n: int
    ids: Sequence[str]

    def view(self, row: int, number: int, size: tuple[int, int]) -> View:
        """Draw a view of an image of `size`, (width, height)."""
        return draw(self.views, self.ids[row], number, size) if number else PLAIN


def draw(views: Views, image_id: str, number: int, size: tuple[int, int]) -> View:
    """Draw the view of this number, from 1 on; the plain one is number 0.

    Args:
        views: What is drawn, and the seed.
        image_id: The id of the image in its split.
        number: Of the view.
        size: (width, height) of the image.
    """
    numbers = uniform_numbers(views.seed, image_id, number)
    # Drawn in any case, so that crops are the same with and without mirroring.
    is_mirrored = next(numbers) < 0.5 and "flip" in views.augment
    return View(_crop(size, numbers) if "crop" in views.augment else None, is_mirrored)


def uniform_numbers(seed: int, image_id: str, number: int) -> Iterator[float]:
    """Give numbers of [0, 1): each has 53 bits of the SHA-256 of seed, id, view and a counter."""
    digest = hashlib.sha256(image_id.encode(errors="surrogateescape")).digest()
    key = _TITLE + digest + seed.to_bytes(8, "little") + number.to_bytes(8, "little")
    for counter in itertools.count():
        block = hashlib.sha256(key + counter.to_bytes(8, "little")).digest()
        for i in range(0, len(block), 8):
            yield (int.from_bytes(block[i : i + 8], "little") >> 11) * 2.0**-53


def _crop(size: tuple[int, int], numbers: Iterator[float]) -> Box:
    """Draw a box of 60% to 100% of the area, whose sides have a ratio of 3/4 to 4/3.

    As torchvision's RandomResizedCrop does, but for the ratio's distribution, which needs no
    logarithm here. Of an image that is too long for such a box, it is the largest in the middle.
    """
    width, height = size
    for _ in range(_TRIES):
        share, length, side, x, y = itertools.islice(numbers, 5)
        area = (_LEAST_AREA + (1 - _LEAST_AREA) * share) * (width * height)
        longer = 1 + (_MOST_RATIO - 1) * length
        ratio = longer if side < 0.5 else 1 / longer
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return Box(left, top, left + w, top + h)
    w = min(width, round(height * _MOST_RATIO))
    h = min(height, round(width * _MOST_RATIO))
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)
