"""What headers say: values that are clipped, orientations; and photos turned upright."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from torchvision.datasets.folder import pil_loader

from featcache.images.headers import read_header
from featcache.images.image_files import FolderImages
from featcache.images.rules import ImageRules
from featcache.images.splits import Header
from tests.images.test_image_files import NOISE, READABLE, RGB, encoded

APPLY = ImageRules(exif_orientation="apply")
XMP = b'<x:xmpmeta xmlns:tiff="t"><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def late_exif() -> bytes:
    """A PNG whose eXIf stands behind the pixels, as exiftool writes it."""
    whole = encoded(RGB, "PNG", exif=oriented(6))
    at = whole.index(b"eXIf") - 4
    length = 12 + int.from_bytes(whole[at : at + 4])
    chunk, rest = whole[at : at + length], whole[:at] + whole[at + length :]
    end = rest.index(b"IEND") - 4
    return rest[:end] + chunk + rest[end:]


def with_text(keyword: str, text: str, *, is_compressed: bool = False) -> bytes:
    told = PngImagePlugin.PngInfo()
    told.add_text(keyword, text, zip=is_compressed)
    return encoded(RGB, "PNG", pnginfo=told)


TURNED: dict[str, Callable[[], bytes]] = {
    "a.jpg": lambda: encoded(RGB, "JPEG", exif=oriented(6)),
    "xmp.jpg": lambda: encoded(RGB, "JPEG", xmp=XMP),
    "a.png": lambda: encoded(RGB, "PNG", exif=oriented(3)),
    "late.png": late_exif,
    "raw.png": lambda: with_text(
        "Raw profile type exif", "\nexif\n 9\n" + oriented(6).tobytes().hex(), is_compressed=True
    ),
    "a.webp": lambda: encoded(RGB, "WEBP", exif=oriented(8)),
    "a.avif": lambda: encoded(RGB, "AVIF", exif=oriented(6)),
}
UPRIGHT: dict[str, Callable[[], bytes]] = {
    "upright.jpg": lambda: encoded(RGB, "JPEG", exif=oriented(1)),
    "beyond.jpg": lambda: encoded(RGB, "JPEG", exif=oriented(9)),
    "text.png": lambda: with_text("Software", "eXIf"),
    "tiff_is_turned_by_pil.tif": lambda: encoded(RGB, "TIFF", exif=oriented(6)),
    "deep_colours.png": lambda: deep_colours(),
}
CLIPPED = ("deep.png", "deep.tif", "float.tiff")


def deep_colours() -> bytes:
    """A PNG of 16 bits a channel in colour, of which PIL takes the upper eight."""
    grey = encoded(Image.fromarray(np.zeros((16, 4), np.uint16)), "PNG")
    assert grey[24:26] == b"\x10\0"
    body = bytearray(grey)
    body[25] = 4  # grey with alpha; the checksum is wrong, and the header is all that is read
    return bytes(body)


@pytest.mark.parametrize("name", [*READABLE, *TURNED, *UPRIGHT])
def test_a_header_says_whether_values_are_clipped_and_pixels_upright(name: str) -> None:
    content = {**READABLE, **TURNED, **UPRIGHT}[name]()

    header = read_header(content, None, ImageRules())

    is_turned = name in TURNED or name == "rotated_by_exif.jpg"
    assert header == Header(name in CLIPPED, is_turned)
    if name != "deep_colours.png":  # the same by PIL, which the file of a large image is given to
        assert read_header(b"", io.BytesIO(content), ImageRules()) == header


def test_a_damaged_header_says_nothing() -> None:
    whole = encoded(RGB, "JPEG", exif=oriented(6))
    for content in (b"", b"\xff\xd8\xff", whole[:40], whole[:12] + whole[30:], NOISE.tobytes()):
        read_header(content, None, ImageRules())  # raises nothing

    assert read_header(b"", None, ImageRules()) == Header()


def test_a_large_file_is_looked_into_as_well(tmp_path: Path) -> None:
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (1600, 1600), np.uint16))
    deep.save(tmp_path / "a.png", compress_level=0)
    assert (tmp_path / "a.png").stat().st_size > 4 << 20

    [look] = FolderImages(str(tmp_path), ("a.png",)).looks()

    assert look.header.is_clipped


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_where_that_is_asked_for(
    tmp_path: Path, orientation: int
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(RGB, "JPEG", exif=oriented(orientation)))
    images = FolderImages(str(tmp_path), ("a.jpg",))

    as_stored, upright = images.decode(0), images.following(APPLY).decode(0)

    np.testing.assert_array_equal(np.asarray(as_stored), np.asarray(pil_loader(path)))
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(upright), np.asarray(expected))


@pytest.mark.parametrize("name", [*READABLE, *TURNED, "tiff_is_turned_by_pil.tif"])
def test_what_is_turned_is_what_is_counted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes({**READABLE, **TURNED, **UPRIGHT}[name]())
    images = FolderImages(str(tmp_path), (name,))

    [look] = images.looks()
    same = np.array_equal(
        np.asarray(images.decode(0)), np.asarray(images.following(APPLY).decode(0))
    )

    assert look.header.is_turned is not same
