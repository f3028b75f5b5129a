"""What an image file's header says beside its pixels: values that RGB clips, an orientation."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterator
from typing import BinaryIO

import PIL
from PIL import Image

from featcache.images.decode import image_formats, orientation_of, pillow_set_up
from featcache.images.rules import ImageRules
from featcache.images.splits import Header

# 16-bit, 32-bit and floating grey: to make RGB of them PIL, and so torchvision, clips at 255.
_CLIPPED_MODES = ("I", "F")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif")
_JPEG_TEXTS = (b"Exif\0", b"http://ns.adobe.com/xap/")
_START_OF_SCAN, _APP1 = 0xDA, 0xE1


def read_header(start: bytes, file: BinaryIO | None, rules: ImageRules) -> Header:
    """Read one image's header; nothing where it cannot be read.

    Files that can say neither are recognised without PIL. PIL takes three times as long as hashing
    a small file.

    Args:
        start: The whole file, or the first megabytes of a large one.
        file: The large one.
        rules: Which images become rows at all.
    """
    if file is None and _says_neither(start):
        return Header()
    try:
        with pillow_set_up(rules):
            image = Image.open(file or io.BytesIO(start), formats=image_formats())
            # PIL turns a TIFF by itself when it decodes it.
            is_turned = image.format != "TIFF" and orientation_of(image) != 1
            return Header(image.mode.split(";")[0] in _CLIPPED_MODES, is_turned)
    except Exception:  # PIL's plugins raise any kind of error on damaged bytes
        return Header()


def header_reader(rules: ImageRules) -> bytes:
    """Name in 8 bytes all that decides what `read_header` finds in a file's bytes."""
    has_heif = importlib.util.find_spec("pillow_heif") is not None
    said = f"{PIL.__version__} {has_heif} {rules.max_pixels}"
    return hashlib.sha256(said.encode()).digest()[:8]


def _says_neither(content: bytes) -> bool:
    """Tell whether a file surely says neither; False if in doubt."""
    if content.startswith(b"\xff\xd8\xff"):
        return not any(body.startswith(_JPEG_TEXTS) for body in _app1_segments(content))
    if content.startswith(_PNG):
        has_deep_grey = content[24:26] == b"\x10\0"  # bits, colour type
        return not has_deep_grey and not any(map(_may_orient, _png_chunks(content)))
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        has_more = content[12:16] == b"VP8X" and content[20:21] > b"\0"
        return not has_more
    return content.startswith((b"BM", b"GIF8"))


def _app1_segments(content: bytes) -> Iterator[bytes]:
    """Yield the start of each APP1 segment before a JPEG's first scan (ITU-T T.81, B.1.1)."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == _START_OF_SCAN:
            return
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == _APP1:
            yield content[at + 4 : at + 36]
        at += 2 + int.from_bytes(content[at + 2 : at + 4])


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and start of each chunk (RFC 2083, 3.2)."""
    at = len(_PNG)
    while at + 8 <= len(content):
        yield content[at + 4 : at + 8], content[at + 8 : at + 32]
        at += 12 + int.from_bytes(content[at : at + 4])


def _may_orient(chunk: tuple[bytes, bytes]) -> bool:
    kind, body = chunk
    return kind == b"eXIf" or (kind in (b"iTXt", b"zTXt", b"tEXt") and body.startswith(_PNG_TEXTS))
