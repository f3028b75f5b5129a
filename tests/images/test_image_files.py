"""Decoding odd and broken image files: bit-equal to torchvision, or a short stable reason."""

import io
import os
import pickle
import resource
import socket
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from torchvision.datasets.folder import pil_loader

from featcache.errors import MismatchError, StorageError
from featcache.images.decode import n_scans
from featcache.images.image_files import FolderImages
from featcache.images.image_names import is_image_name
from featcache.images.rules import ImageRules
from featcache.images.splits import UnreadableImageError
from tests.faults.bombs import many_scans

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (16, 12, 4), dtype=np.uint8)
RGB = Image.fromarray(NOISE[..., :3])


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def transparent_palette() -> bytes:
    return encoded(RGB.quantize(16), "PNG", transparency=b"\x00\x80\xff")


def deep_grey() -> Image.Image:
    return Image.fromarray(RNG.integers(0, 65536, (16, 12), dtype=np.uint16))


def rotated() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return encoded(RGB, "JPEG", exif=exif)


def two_frames(kind: str) -> bytes:
    return encoded(RGB, kind, save_all=True, append_images=[RGB.rotate(180)])


READABLE: dict[str, Callable[[], bytes]] = {
    "grey.jpg": lambda: encoded(RGB.convert("L"), "JPEG"),
    "bilevel.png": lambda: encoded(RGB.convert("1"), "PNG"),
    "palette.png": lambda: encoded(RGB.quantize(16), "PNG"),
    "transparent_palette.png": transparent_palette,
    "rgba.png": lambda: encoded(Image.fromarray(NOISE), "PNG"),
    "grey_alpha.png": lambda: encoded(Image.fromarray(NOISE).convert("LA"), "PNG"),
    "cmyk.jpg": lambda: encoded(RGB.convert("CMYK"), "JPEG"),
    "deep.png": lambda: encoded(deep_grey(), "PNG"),
    "deep.tif": lambda: encoded(deep_grey(), "TIFF"),
    "float.tiff": lambda: encoded(RGB.convert("F"), "TIFF"),
    "rotated_by_exif.jpg": rotated,
    "animated.gif": lambda: two_frames("GIF"),
    "animated.webp": lambda: two_frames("WEBP"),
    "two_pictures.jpg": lambda: two_frames("MPO"),
    "progressive.jpeg": lambda: encoded(RGB, "JPEG", progressive=True),
    "lossy.webp": lambda: encoded(RGB, "WEBP"),
    "plain.ppm": lambda: encoded(RGB, "PPM"),
    "plain.bmp": lambda: encoded(RGB, "BMP"),
    "png_called.jpg": lambda: encoded(RGB, "PNG"),
    "one_pixel.png": lambda: encoded(RGB.resize((1, 1)), "PNG"),
}


def reason(folder: Path, name: str, content: bytes | None = None) -> str:
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UnreadableImageError) as caught:
        FolderImages(str(folder), (name,)).decode(0)
    return str(caught.value)


@pytest.mark.parametrize("name", READABLE)
def test_what_can_be_read_equals_torchvisions_loader_bit_for_bit(
    tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / name).write_bytes(READABLE[name]())

    image = FolderImages(str(tmp_path), (name,)).decode(0)

    assert not recwarn.list
    assert image.mode == "RGB"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's loader lets PIL's remarks through
        np.testing.assert_array_equal(np.asarray(image), np.asarray(pil_loader(tmp_path / name)))


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    assert reason(tmp_path, "a.jpg", b"") == "empty file"


def test_text_called_jpg_is_not_an_image(tmp_path: Path) -> None:
    assert reason(tmp_path, "a.jpg", b"<html>404</html>") == "not an image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_image_is_refused_not_filled_with_grey(tmp_path: Path, kind: str) -> None:
    whole = encoded(Image.fromarray(RNG.integers(0, 256, (99, 99, 3), dtype=np.uint8)), kind)

    text = reason(tmp_path, "a.jpg", whole[: len(whole) // 2])

    assert text.startswith("truncated")


def test_a_flipped_bit_in_a_png_is_damaged(tmp_path: Path) -> None:
    whole = bytearray(encoded(RGB, "PNG"))
    whole[20] ^= 1

    text = reason(tmp_path, "a.png", bytes(whole))

    assert text in ("not an image", "damaged: broken PNG file (chunk b'IHDR')")


@pytest.mark.parametrize("users_own", [None, 10, 10**12])
def test_an_image_of_more_pixels_than_allowed_is_refused_whatever_the_user_told_pil(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    users_own: int | None,
) -> None:
    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", users_own)
    images = FolderImages(str(tmp_path), ("a.png",))

    with pytest.raises(UnreadableImageError, match=r"^decompression bomb: 192 pixels$"):
        images.following(ImageRules(max_pixels=191)).decode(0)
    assert images.following(ImageRules(max_pixels=192)).decode(0).size == (12, 16)
    assert images.decode(0).size == (12, 16)
    assert users_own == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


def test_the_default_limit_is_pillows_own() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None

    assert ImageRules().max_pixels == 2 * Image.MAX_IMAGE_PIXELS


def test_a_progressive_jpeg_of_countless_scans_is_refused(tmp_path: Path) -> None:
    assert reason(tmp_path, "a.jpg", many_scans(16, 101)) == "progressive JPEG of 101 scans"


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_scans_are_counted_without_those_of_a_preview_or_a_picture_behind(mode: str) -> None:
    image = RGB.convert(mode)
    preview = encoded(RGB, "JPEG", progressive=True)
    exif = Image.Exif()
    exif[0x8769] = {0x927C: preview}
    whole = encoded(image, "JPEG", progressive=True, exif=exif)

    assert len(whole) > len(preview)
    assert n_scans(io.BytesIO(whole + preview)) == {"L": 6, "RGB": 10, "CMYK": 18}[mode]
    assert n_scans(io.BytesIO(encoded(image, "JPEG"))) == 1
    assert n_scans(io.BytesIO(whole[: len(whole) // 2])) <= 10
    assert n_scans(io.BytesIO()) == 0


@pytest.mark.parametrize("shift", range(6))
def test_scans_are_counted_where_a_window_cuts_their_markers(shift: int) -> None:
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)
    file = b"\xff\xd8" + 15 * comment
    file += b"\xff\xfe" + (gap := 2**20 - len(file) - 2 + shift - 1).to_bytes(2) + bytes(gap - 2)
    scans = b"\xff\xff\xda\0\2" * 3 + b"\1\xff\0" + b"\xff\xda\0\2" + b"\xff\xd9\xff\xda\0\2"

    n = n_scans(io.BytesIO(file + scans))

    assert n == 4


def sparse(path: Path, start: bytes) -> FolderImages:
    """An image file of 257 MiB, nearly all of it a hole, and what it is expected to be."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(257 << 20)
    images = FolderImages(str(path.parent), (path.name,))
    return images.expecting([look.digest for look in images.looks()])


def test_a_file_of_hundreds_of_megabytes_is_decoded_without_being_held(tmp_path: Path) -> None:
    images = sparse(tmp_path / "a.jpg", encoded(RGB, "JPEG", progressive=True))

    tracemalloc.start()
    try:
        image = images.decode(0)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert image.tobytes() == pil_loader(images.path_of(0)).tobytes()
    assert most < 8 << 20


@pytest.mark.parametrize("start", [encoded(RGB, "PNG"), b"no image"])
def test_a_large_file_that_changed_since_it_was_hashed_is_refused(
    tmp_path: Path, start: bytes
) -> None:
    path = tmp_path / "a.png"
    images = sparse(path, b"no image")
    with path.open("r+b") as file:
        file.write(start)
        file.seek(-1, os.SEEK_END)
        file.write(b"1")

    with pytest.raises(MismatchError, match=r"a\.png is not the file .* it holds other bytes now"):
        images.decode(0)


LITTLE_MEMORY = """
import io, json, os, pathlib, resource, sys
from featcache.images.decode import ImageRules, decode_image, image_formats
from featcache.images.splits import UnreadableImageError

image_formats()
for path in map(pathlib.Path, sys.argv[1:]):
    content = path.read_bytes()
    found = []
    for n_mib in (3, 30, 60, 120, 3000):
        ours, theirs = os.pipe()
        if not os.fork():
            n_pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
            nbytes = n_pages * resource.getpagesize() + (n_mib << 20)
            resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))
            try:
                decode_image(io.BytesIO(content), ImageRules())
                os.write(theirs, b"decoded")
            except (MemoryError, UnreadableImageError) as err:
                os.write(theirs, type(err).__name__.encode())
            os._exit(0)
        os.wait()
        found.append(os.read(ours, 99).decode())
    print(path.name, *found)
"""


def test_lack_of_memory_is_not_blamed_on_the_image(tmp_path: Path) -> None:
    """Several libraries call a file damaged when they cannot allocate what it needs."""
    image = Image.new("RGB", (3000, 3000), (1, 2, 3))
    kinds = {"JPEG": {"progressive": True}, "WEBP": {}, "JPEG2000": {}}
    for kind, options in kinds.items():
        (tmp_path / kind).write_bytes(encoded(image, kind, **options))
    (tmp_path / "WEBP lossless").write_bytes(encoded(image, "WEBP", lossless=True))

    # A process of its own, which holds no freed memory yet.
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.endswith(" decoded"), line
        assert "MemoryError" in line
        assert "UnreadableImageError" not in line


def test_remarks_that_pil_logs_stay_off_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    for handler in (root := TiffImagePlugin.logger.root).handlers[:]:
        monkeypatch.setattr(root, "handlers", [h for h in root.handlers if h is not handler])

    def complaining(*_: object, **__: object) -> Image.Image:
        TiffImagePlugin.logger.error("More samples per pixel than can be decoded: 9")
        raise SyntaxError("Invalid value for samples per pixel")

    monkeypatch.setattr(Image, "open", complaining)

    text = reason(tmp_path, "a.png")

    assert text == "damaged: Invalid value for samples per pixel"
    assert capfd.readouterr().err == ""


def test_postscript_called_jpg_never_starts_ghostscript(tmp_path: Path) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"

    assert reason(tmp_path, "a.jpg", postscript) == "not an image"


def test_pipes_sockets_and_folders_called_jpg_do_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 bytes at most
    os.mkfifo("pipe.jpg")
    Path("folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
    names = ("pipe.jpg", "folder.jpg", "socket.jpg")

    reasons = {reason(tmp_path, name) for name in names}
    digests = {look.digest for look in FolderImages(str(tmp_path), names).looks()}

    assert reasons == {"not a regular file"}
    assert digests == {b"unreadable file"}


def test_a_file_that_is_gone_stops_the_run_and_is_not_given_up(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone\.jpg could be read when the dataset was hashed"):
        reason(tmp_path, "gone.jpg")


def test_a_link_into_nowhere_says_so_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")

    assert reason(tmp_path, "link.jpg") == "cannot read: No such file or directory"


def test_lack_of_file_handles_is_not_blamed_on_the_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    images = FolderImages(str(tmp_path), ("a.png",))
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)

    resource.setrlimit(resource.RLIMIT_NOFILE, (3, usual[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            images.decode(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def to_other_bytes(path: Path) -> None:
    path.write_bytes(encoded(RGB.rotate(180), "PNG"))


def to_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def to_a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (to_other_bytes, "it holds other bytes now"),
        (to_nothing, "it holds other bytes now"),
        (to_a_folder, "it is not a regular file now"),
        (to_a_link_to_itself, "it can no longer be read"),
    ],
)
def test_a_file_that_changed_since_it_was_hashed_is_no_row(
    tmp_path: Path, change: Callable[[Path], None], how: str
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(RGB, "PNG"))
    images = FolderImages(str(tmp_path), ("a.png", "b.png"))
    images = images.expecting([look.digest for look in images.looks()]).take(np.array([1, 0]))
    pixels = np.asarray(images.decode(0))

    change(tmp_path / "b.png")

    with pytest.raises(MismatchError, match=rf"b\.png is not the file .*: {how}"):
        images.decode(0)
    np.testing.assert_array_equal(np.asarray(images.decode(1)), pixels)


def test_a_file_that_could_not_be_read_and_now_can_counts_as_changed(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "later.png")
    images = FolderImages(str(tmp_path), ("link.png",))
    images = images.expecting([look.digest for look in images.looks()])
    with pytest.raises(UnreadableImageError, match="No such file"):
        images.decode(0)

    (tmp_path / "later.png").write_bytes(encoded(RGB, "PNG"))

    with pytest.raises(MismatchError, match="it could not be read then, and can be now"):
        images.decode(0)


def test_garbage_in_any_format_gives_one_stable_line(tmp_path: Path) -> None:
    kinds = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM")
    for i in range(140):
        kind = kinds[i % len(kinds)]
        content = bytearray(encoded(RGB, kind))
        for place in RNG.integers(0, len(content), 12):
            content[place] = RNG.integers(0, 256)
        (tmp_path / "a.png").write_bytes(content)
        images = FolderImages(str(tmp_path), ("a.png",))

        try:
            images.decode(0)
        except UnreadableImageError as err:
            text = str(err)
            assert text == reason(tmp_path, "a.png")
            assert 0 < len(text) < 120
            assert text.isprintable()
            assert str(tmp_path) not in text
            assert "0x" not in text


def test_digests_follow_the_order_of_rows_across_many_files(tmp_path: Path) -> None:
    names = tuple(f"{i:04d}.jpg" for i in range(700))
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    images = FolderImages(str(tmp_path), names)

    digests = [look.digest for look in images.looks()]
    reversed_digests = [look.digest for look in images.take(np.arange(700)[::-1]).looks()]

    assert len(set(digests)) == 700
    assert digests == reversed_digests[::-1]


def test_a_large_file_is_hashed_to_its_last_byte(tmp_path: Path) -> None:
    content = bytearray(5 * 2**20)
    (tmp_path / "a.jpg").write_bytes(content)
    content[-1] = 1
    (tmp_path / "b.jpg").write_bytes(content)

    digests = {look.digest for look in FolderImages(str(tmp_path), ("a.jpg", "b.jpg")).looks()}

    assert len(digests) == 2


def test_folder_images_survive_pickling_with_odd_names() -> None:
    images = FolderImages("/x", ("caf\udce9/a.jpg", "b.jpg"))

    assert pickle.loads(pickle.dumps(images)) == images


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.b.Png", "a.avif"])
def test_image_names_are_told_by_extension(name: str) -> None:
    assert is_image_name(name)
    assert not is_image_name(name + ".txt")
