"""Bytes of an image file to RGB pixels, exactly as torchvision's loader decodes them with PIL."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import mmap
import re
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from featcache.core.process_wide import warnings_ignored
from featcache.images.rules import ImageRules
from featcache.images.splits import UnreadableImageError

FORMAT_OF = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jp2": "JPEG2000",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".png": "PNG",
    ".pnm": "PPM",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""PIL's format by extension: torchvision's list and what PIL reads beside it."""

HEIC_EXTENSIONS = (".heic", ".heif")
"""What the extra `heif` adds to them."""

# Every scan visits all blocks of the image, so that a small file can cost minutes. libjpeg's own
# script has 10 scans (18 for CMYK), what mozjpeg optimised 3 to 10: of 720 and 720 files.
# 100 scans of the largest image that is allowed by default take 4 CPU seconds.
_MOST_SCANS = 100
_SCAN_OR_END = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")  # neither stuffing nor a restart
_START_OF_SCAN, _END_OF_IMAGE, _TEMPORARY = 0xDA, 0xD9, 0x01
_WINDOW_BYTES = 2**20
_RIFF_BYTES = 30  # to the size of a WebP

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The most that decoders were seen to need (JPEG 2000, WebP), and what they need for any image.
_BYTES_PER_PIXEL = 24
_LEAST_BYTES = 32 << 20

# What is set for PIL is the whole process's.
_pillow_lock = threading.Lock()


def decode_image(file: BinaryIO, rules: ImageRules, *, is_heic: bool = False) -> Image.Image:
    """Decode one image into mode RGB, bit-equal to torchvision.datasets.folder.pil_loader.

    An animation gives its first frame. The format is told by the bytes, not by the name.

    Args:
        file: The file, in memory or on disk. Of most formats no more is read than is needed. The
            libraries of WebP, AVIF and HEIC read the whole file.
        rules: Whether and how it becomes a row.
        is_heic: Whether it may also be HEIC. libheif turns photos upright by itself.

    Raises:
        UnreadableImageError: If it cannot be decoded, with the reason in one stable line.
        MemoryError: If there is not enough memory for it.
    """
    start = file.read(_RIFF_BYTES)
    if not start:
        raise UnreadableImageError("empty file")
    n_pixels = _webp_pixels(start)
    try:
        with pillow_set_up(rules):
            image = _opened(file, rules, is_heic=is_heic)
            n_pixels = image.width * image.height
            if image.info.get("progressive") and (n := n_scans(file)) > _MOST_SCANS:
                raise UnreadableImageError(f"progressive JPEG of {n} scans")
            if rules.exif_orientation == "apply":
                image.load()
                turn = _UPRIGHT.get(orientation_of(image))
                return (image if turn is None else image.transpose(turn)).convert("RGB")
            return image.convert("RGB")
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as err:  # PIL's plugins raise any kind of error on damaged bytes
        _require_memory(_BYTES_PER_PIXEL * n_pixels, err)
        raise UnreadableImageError(reason_of(err)) from err


def orientation_of(image: Image.Image) -> int:
    """Read EXIF's orientation, 1 to 8. It is 1, upright, if it is missing or damaged.

    PIL turns a TIFF by itself when it loads it; the orientation is 1 afterwards.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of damaged bytes, of any kind
        return 1
    return orientation if orientation in _UPRIGHT else 1


def n_scans(file: BinaryIO) -> int:
    """Count the scans of a JPEG; a preview in its header or a picture behind it does not count.

    One window of the file is in memory at a time. Source: ITU-T T.81, B.1.1.
    """
    n, at = 0, 2
    start, window, is_last = 0, b"", False
    while True:
        found = _SCAN_OR_END.search(window, at - start)
        if found is None or (found.end() + 2 > len(window) and not is_last):
            if is_last:
                return n
            # A marker that the window cuts is looked for again in the next.
            left = found.end() - 2 if found else len(window) - window.endswith(b"\xff")
            start = at = max(at, start + left)
            file.seek(start)
            window = file.read(_WINDOW_BYTES)
            is_last = len(window) < _WINDOW_BYTES
            continue
        marker, behind = window[found.end() - 1], found.end()
        at = start + behind
        if marker == _END_OF_IMAGE:
            return n
        if marker != _TEMPORARY:
            n += marker == _START_OF_SCAN
            at += int.from_bytes(window[behind : behind + 2])


def _require_memory(nbytes: int, err: Exception) -> None:
    """Raise MemoryError if an image failed because memory was short.

    Several libraries call a file damaged when they cannot allocate what it needs.
    """
    try:
        mmap.mmap(-1, nbytes + _LEAST_BYTES, flags=mmap.MAP_PRIVATE).close()
    except OSError as lack:
        raise MemoryError(str(lack)) from err


def _webp_pixels(start: bytes) -> int:
    """Read the pixels of a WebP, for which PIL has no size where memory is short; else 0.

    Source: RFC 9649, 2.5 to 2.7.
    """
    if start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return 0
    kind, body = start[12:16], start[20:30]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
    elif kind == b"VP8L":
        sides = int.from_bytes(body[1:5], "little")
        width, height = (1 + (sides >> shift & 0x3FFF) for shift in (0, 14))
    else:
        width, height = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width * height


@contextlib.contextmanager
def pillow_set_up(rules: ImageRules) -> Iterator[None]:
    """Let PIL refuse what the rules refuse, and keep its warnings off the terminal.

    The user's own setting is restored afterwards, and log handlers of the user still get all.
    """
    logger, handler = logging.getLogger("PIL"), logging.NullHandler()
    with _pillow_lock, warnings_ignored():
        logger.addHandler(handler)
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = rules.max_pixels / 2  # type: ignore[assignment] # twice is too many
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
            logger.removeHandler(handler)


def forget_other_threads() -> None:
    """Make a new lock after a fork; a thread that this process lacks may have held the old one."""
    global _pillow_lock
    _pillow_lock = threading.Lock()


def _opened(file: BinaryIO, rules: ImageRules, *, is_heic: bool) -> Image.Image:
    file.seek(0)
    if is_heic:
        import pillow_heif  # used by itself: its plugin would be there for the user's own code too

        if pillow_heif.is_supported(file):
            read: Any = pillow_heif.HeifImageFile  # its constructor has no annotations
            image: Image.Image = read(file)
            if image.width * image.height > rules.max_pixels:
                n_pixels = image.width * image.height
                raise UnreadableImageError(f"decompression bomb: {n_pixels} pixels")
            return image
    return Image.open(file, formats=image_formats())


@functools.cache
def image_extensions() -> tuple[str, ...]:
    """List what counts as an image file, in lower case: HEIC where something can decode it."""
    has_heif = importlib.util.find_spec("pillow_heif") is not None
    return (*FORMAT_OF, *(HEIC_EXTENSIONS if has_heif else ()))


@functools.cache
def image_formats() -> tuple[str, ...]:
    """List the formats tried. EPS is not one: PIL would start Ghostscript on user data."""
    Image.init()
    return tuple(name for name in sorted(set(FORMAT_OF.values())) if name in Image.OPEN)


def reason_of(err: Exception) -> str:
    """Say in one stable line why an image is unreadable."""
    if isinstance(err, UnidentifiedImageError):
        return "not an image"
    if isinstance(err, OSError) and err.strerror:
        return f"cannot read: {err.strerror}"
    text = str(err)
    if isinstance(err, Image.DecompressionBombError):
        n_pixels = re.search(r"\d+", text)
        return f"decompression bomb: {n_pixels[0] if n_pixels else '?'} pixels"
    if left := re.search(r"truncated(?: \(\d+ bytes not processed\))?", text, re.IGNORECASE):
        return left[0].lower()
    # An object's repr holds its address, which differs from run to run.
    text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>|0x[0-9a-f]{6,}", "...", " ".join(text.split()))
    return f"damaged: {text[:100]}" if text else f"damaged: {type(err).__name__}"
