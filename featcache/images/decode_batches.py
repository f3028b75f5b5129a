"""Batches of images, decoded, resized and cropped in this process, by PIL alone.

What cannot be decoded is named, not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.config import MAX_PIXELS
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NOT_DECODED_HERE
from featcache.core.stopping import stop_if_asked
from featcache.errors import DeviceError, UsageError
from featcache.images.augment import PLAIN, SplitViews, View
from featcache.images.splits import ArrayImages, FileImages, UnreadableImageError

OUT_OF_MEMORY = "out of memory"


class Span(NamedTuple):
    """Rows start..stop of a split: one batch of the grid."""

    start: int
    stop: int


ONE_VIEW = range(1)


class Portion(NamedTuple):
    """What is decoded at a time: some views of the images of a span.

    Attributes:
        span: The rows.
        views: The numbers of the views.
    """

    span: Span
    views: range = ONE_VIEW


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """One view of the images of one span.

    Attributes:
        span: Its rows.
        images: (B, H, W, 3) uint8; zeros where the image could not be read.
        reasons: Why not, by row within the batch.
        view: The number of the view.
    """

    span: Span
    images: npt.NDArray[np.uint8]
    reasons: Mapping[int, str] = field(default_factory=dict)
    view: int = 0


@dataclass(frozen=True, eq=False)
class Decoder:
    """Decodes, resizes and crops the images of a split.

    Attributes:
        images: The image files, or images in memory.
        preprocess: What is done to each.
        may_skip: Whether an image that this machine cannot decode is left out, with a reason; else
            it stops the run.
        views: The views of each image; None is the plain one alone.
    """

    images: FileImages | ArrayImages
    preprocess: Preprocess
    may_skip: bool = False
    views: SplitViews | None = None

    def fill(
        self,
        images: npt.NDArray[np.uint8],
        portion: Portion,
        *,
        given_up: Mapping[int, str],
        begin: Callable[[int], None],
        no_memory: Callable[[int], str],
    ) -> dict[int, str]:
        """Decode a portion into `images`, each image once for all its views.

        Args:
            images: (V, B, H, W, 3) uint8, overwritten.
            portion: Its rows and views.
            given_up: Rows of the split that are not to be tried, with the reason.
            begin: Called with each row before it is decoded.
            no_memory: Called with a row for which memory ran out; gives its reason, or raises.

        Returns:
            Why rows could not be decoded, by row within the batch; their images are zeros.
        """
        reasons = {}
        for i, row in enumerate(range(*portion.span)):
            try:
                if row in given_up:
                    raise UnreadableImageError(given_up[row])
                begin(row)
                self._decode(row, portion.views, images[:, i])
            except UnreadableImageError as err:
                reasons[i] = str(err)
            except MemoryError:
                reasons[i] = no_memory(row)
        images[:, list(reasons)] = 0
        return reasons

    def _decode(self, row: int, views: range, out: npt.NDArray[np.uint8]) -> None:
        image = self.images.decode(row)
        height, width = self.preprocess.geometry((image.height, image.width)).size
        if height * width > MAX_PIXELS:  # a line of pixels whose shorter side grows to 256
            raise UnreadableImageError(
                f"too long and narrow: {image.width} x {image.height} pixels, {width} x {height} "
                f"resized"
            )
        for i, number in enumerate(views):
            view = PLAIN if self.views is None else self.views.view(row, number, image.size)
            out[i] = resize_image(image, self.preprocess, view)

    def batches(self, portion: Portion) -> Iterator[ImageBatch]:
        """Decode a portion in this process; a batch for each of its views.

        Raises:
            DeviceError: If memory runs out, unless such an image may be left out.
        """
        span, views = portion
        shape = (len(views), span.stop - span.start, *self.preprocess.out_size, 3)
        images = np.empty(shape, np.uint8)
        reasons = self.fill(
            images,
            portion,
            given_up={},
            begin=lambda _: stop_if_asked(),
            no_memory=lambda row: self.give_up(row, OUT_OF_MEMORY),
        )
        for i, number in enumerate(views):
            yield ImageBatch(span, images[i], reasons, number)

    def give_up(self, row: int, why: str) -> str:
        """Give the reason of a row that this machine cannot decode, where it may be left out.

        Raises:
            DeviceError: Where it may not, with the file named.
        """
        if self.may_skip:
            return f"{NOT_DECODED_HERE}{why}"
        raise DeviceError(
            f"{self.images.path_of(row)} cannot be decoded on this machine, beside others or "
            f"alone: {why}. All acknowledged rows are kept. Where there is more memory or time, "
            f"the same command goes on from there. To go on without the image, add "
            f"--skip-undecodable; featcache cache repair then computes its row later."
        )


def resize_image(
    image: Image.Image, preprocess: Preprocess, view: View = PLAIN
) -> npt.NDArray[np.uint8]:
    """Resize and crop one image with PIL; `Preprocess.after_resize` is what is left to do.

    Args:
        image: In mode RGB, of any size.
        preprocess: Its mean and std are not used.
        view: Which view of it.

    Returns:
        (h, w, 3) uint8, of the size `preprocess.out_size`.

    Raises:
        UsageError: If the image is not RGB, or the preprocessing cannot be carried out.
    """
    if image.mode != "RGB":
        raise UsageError(f"The image has mode {image.mode}; expected RGB. Convert it first.")
    (height, width), rows, columns = preprocess.geometry((image.height, image.width))
    kernel = Image.Resampling[preprocess.interpolation.upper()]
    if view.box is None:
        resized = image.resize((width, height), kernel)
        resized = resized.crop((columns.start, rows.start, columns.stop, rows.stop))
    else:
        resized = image.crop(view.box).resize(preprocess.out_size[::-1], kernel)
    pixels = np.array(resized)
    return pixels[:, ::-1] if view.is_mirrored else pixels
