"""Small pictures of a cache's rows, as text that stands in a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from featcache.images.splits import UnreadableImageError
from featcache.insight.cache_images import CacheImages

SIDE = 96
"""Pixels of the longer side, at most."""
_MOST_LOSSLESS = 4096  # bytes; noise of 96 pixels would take 27 kB as PNG
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of an image, or why there is none.

    Attributes:
        uri: "data:image/png;base64,..." or of a JPEG; empty if there is no picture.
        width: Pixels.
        height: Pixels.
        reason: Why there is no picture; empty if there is one.
    """

    uri: str
    width: int = 0
    height: int = 0
    reason: str = ""


def thumbnail(images: CacheImages, split: str, row: int, *, side: int = SIDE) -> Thumbnail:
    """Make a picture of a row's image.

    Args:
        images: From `featcache.insight.cache_images.images_of`.
        split: Split of the row.
        row: Its number in the split.
        side: As of `thumbnail_of`.
    """
    try:
        return thumbnail_of(images.image(split, row), side=side)
    except UnreadableImageError as err:
        return Thumbnail("", reason=str(err))


def thumbnail_of(image: Image.Image, *, side: int = SIDE) -> Thumbnail:
    """Reduce a whole RGB image to fit into a square of `side` pixels.

    A smaller image stays as it is, to the pixel where that takes few bytes: a page can enlarge it.
    """
    scale = side / max(image.size)
    if scale >= 1:
        content = _encoded(image, "png", optimize=True)
        if len(content) <= _MOST_LOSSLESS:
            return _thumbnail("png", content, image)
    else:
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _thumbnail("jpeg", _encoded(image, "jpeg", quality=_JPEG_QUALITY), image)


def _thumbnail(kind: str, content: bytes, image: Image.Image) -> Thumbnail:
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Thumbnail(uri, image.width, image.height)


def _encoded(image: Image.Image, format: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
