"""Zip and tar archives: hostile ones are refused, damaged members are rows with a reason."""

from __future__ import annotations

import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.errors import DatasetError, StorageError
from featcache.images.datasets import load_dataset
from featcache.images.splits import Dataset, UnreadableImageError
from tests.conftest import save_image
from tests.images.containers import add, tarred, zipped


@pytest.fixture
def png(tmp_path: Path) -> bytes:
    save_image(tmp_path / "one.png", 0, size=(4, 5))
    return (tmp_path / "one.png").read_bytes()


def load(path: Path) -> Dataset:
    return load_dataset(f"{path.suffix[1:]}:{path}", data_dir=path.parent)


def link(path: Path, kind: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("cat/b.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return path


def zipped_link(path: Path) -> Path:
    info = zipfile.ZipInfo("cat/b.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return path


def encrypted(path: Path, png: bytes) -> Path:
    whole = bytearray(zipped(path, {"cat/a.png": png}).read_bytes())
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(whole)
    return path


def twice(path: Path, png: bytes) -> Path:
    whole = zipped(path, {"cat/a.png": png, "cat/b.png": png}).read_bytes()
    path.write_bytes(whole.replace(b"b.png", b"a.png"))
    return path


def tarred_twice(path: Path, png: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        add(archive, "cat/a.png", png)
        add(archive, "./cat/a.png", png)
    return path


def cut(path: Path, n: int) -> Path:
    path.write_bytes(path.read_bytes()[:-n])
    return path


def compressed(path: Path, png: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "cat/a.png", png)
    return path


def zip64(path: Path, png: bytes, *, at: int) -> Path:
    """Say a number of 64 bits that is none of this file: 0 is the size, 16 the offset."""
    whole = bytearray(zipped(path, {"cat/a.png": png}, zipfile.ZIP_STORED).read_bytes())
    start = whole.index(b"PK\x01\x02")
    numbers = [len(png), len(png), 0]
    numbers[at // 8] = 2**63
    extra = struct.pack("<HHQQQ", 1, 24, *numbers)
    struct.pack_into("<II", whole, start + 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", whole, start + 30, len(extra))
    struct.pack_into("<I", whole, start + 42, 2**32 - 1)
    name_end = start + 46 + len("cat/a.png")
    whole[name_end:name_end] = extra
    end = whole.index(b"PK\x05\x06")
    struct.pack_into("<I", whole, end + 12, end - start)
    path.write_bytes(whole)
    return path


def with_huge_header(path: Path) -> Path:
    info = tarfile.TarInfo("cat/a.png")
    info.type, info.size = tarfile.XHDTYPE, 2**60
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    return path


REFUSED: dict[str, tuple[Callable[[Path, bytes], Path], str]] = {
    "zip: out of it": (
        lambda f, png: zipped(f / "a.zip", {"cat/../../a.png": png}),
        "'cat/../../a.png' in .* has a name that is no path below the archive",
    ),
    "zip: absolute": (
        lambda f, png: zipped(f / "a.zip", {"/etc/passwd": png}),
        "'/etc/passwd' in .* has a name that is no path below",
    ),
    "zip: backslashes": (
        lambda f, png: zipped(f / "a.zip", {"cat\\..\\a.png": png}),
        "no path below the archive",
    ),
    "zip: link": (lambda f, _: zipped_link(f / "a.zip"), "'cat/b.png' in .* is a link"),
    "zip: encrypted": (
        lambda f, png: encrypted(f / "a.zip", png),
        "'cat/a.png' in .* is encrypted",
    ),
    "zip: twice": (lambda f, png: twice(f / "a.zip", png), "'cat/a.png' in .* is there twice"),
    "zip: another method": (
        lambda f, png: zipped(f / "a.zip", {"cat/a.png": png}, zipfile.ZIP_BZIP2),
        "is compressed by 'bzip2', which cannot be read",
    ),
    "zip: cut short": (
        lambda f, png: cut(zipped(f / "a.zip", {"cat/a.png": png}), 10),
        "is no zip archive, or is cut short or damaged",
    ),
    "zip: a size beyond any file": (
        lambda f, png: zip64(f / "a.zip", png, at=0),
        "'cat/a.png' in .* is said to lie beyond any file",
    ),
    "zip: a place beyond any file": (
        lambda f, png: zip64(f / "a.zip", png, at=16),
        "'cat/a.png' in .* is said to lie beyond any file",
    ),
    "tar: a huge header": (
        lambda f, _: with_huge_header(f / "a.tar"),
        "is no tar archive, or is cut short or damaged",
    ),
    "zip: no archive": (
        lambda f, png: Path(f / "one.png").rename(f / "a.zip"),
        "is no zip archive",
    ),
    "zip: not there": (lambda f, _: f / "a.zip", "a.zip' does not exist. Nothing was"),
    "zip: no class folders": (
        lambda f, png: zipped(f / "a.zip", {"a.png": png}),
        "holds 1 image but no class folders",
    ),
    "zip: wrapped splits": (
        lambda f, png: zipped(
            f / "a.zip", {f"my_{s}/my_{s}/{c}/a.png": png for s in ("train", "test") for c in "xy"}
        ),
        "would be taken for classes.* Unpack it, and take folder:PATH with the path of 'my_train",
    ),
    "tar: out of it": (
        lambda f, png: tarred(f / "a.tar", {"../a.png": png}),
        "'../a.png' in .* has a name that is no path below the archive",
    ),
    "tar: a long name": (
        lambda f, png: tarred(f / "a.tar", {f"cat/{'deep/' * 900}a.png": png}),
        "has a name that is no path below the archive",
    ),
    "tar: absolute": (
        lambda f, png: tarred(f / "a.tar", {"/cat/a.png": png}),
        "has a name that is no path below the archive",
    ),
    "tar: symbolic link": (lambda f, _: link(f / "a.tar", tarfile.SYMTYPE), "is a link"),
    "tar: hard link": (lambda f, _: link(f / "a.tar", tarfile.LNKTYPE), "is a link"),
    "tar: pipe": (lambda f, _: link(f / "a.tar", tarfile.FIFOTYPE), "is no plain file"),
    "tar: twice": (lambda f, png: tarred_twice(f / "a.tar", png), "is there twice"),
    "tar: cut in a file": (
        lambda f, png: cut(tarred(f / "a.tar", {"cat/a.png": png * 99}), 10_000),
        "is cut short or damaged: unexpected end of data",
    ),
    "tar: cut behind a file": (
        lambda f, png: cut(tarred(f / "a.tar", {"cat/a.png": b"a" * 512}), 10240 - 1024),
        "is cut short or damaged: the blocks of zeros that end an archive are missing",
    ),
    "tar: compressed": (
        lambda f, png: compressed(f / "a.tar", png),
        r"is compressed as a whole.* Inflate it \(gunzip\)",
    ),
    "tar: no archive": (
        lambda f, png: Path(f / "one.png").rename(f / "a.tar"),
        "is no tar archive",
    ),
    "tar: no label": (
        lambda f, png: tarred(f / "a.tar", {"1.jpg": png, "1.cls": b"3", "2.jpg": png}),
        "'2.jpg' in .* has no label beside it",
    ),
    "tar: two images": (
        lambda f, png: tarred(f / "a.tar", {"1.jpg": png, "1.cls": b"3", "1.png": png}),
        "'1.png' in .* has the key of '1.jpg'",
    ),
    "tar: no JSON": (
        lambda f, png: tarred(f / "a.tar", {"1.jpg": png, "1.json": b"{"}),
        "'1.json' in .* cannot be read",
    ),
    "tar: JSON without label": (
        lambda f, png: tarred(f / "a.tar", {"1.jpg": png, "1.json": b'{"caption": "x"}'}),
        "'1.json' in .* has no 'label'",
    ),
    "tar: label of another kind": (
        lambda f, png: tarred(f / "a.tar", {"1.jpg": png, "1.json": b'{"label": [1]}'}),
        "'1.json' in .* neither text nor a whole number",
    ),
    "tar: huge label": (
        lambda f, png: tarred(f / "a.tar", {"1.jpg": png, "1.cls": bytes(2**20 + 1)}),
        r"'1.cls' in .* cannot be read \(1048577 bytes in an archive",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_archive_that_is_hostile_or_no_dataset_is_refused(
    kind: str, png: bytes, tmp_path: Path
) -> None:
    make, said = REFUSED[kind]
    path = make(tmp_path, png)

    with pytest.raises(DatasetError, match=said) as caught:
        load(path)

    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    assert str(caught.value).count("Nothing was extracted") <= 1
    assert "cannot be read" not in str(caught.value) or "cannot be read" in said


def reason(dataset: Dataset, row: int = 0) -> str:
    images = dataset.splits["train"].images
    with pytest.raises(UnreadableImageError) as caught:
        images.expecting([look.digest for look in images.looks()]).decode(row)
    return str(caught.value)


def test_a_bomb_is_a_row_with_a_reason_and_is_never_inflated(png: bytes, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"cat/a.png": png, "cat/bomb.png": bytes(1 << 20)})
    whole = bytearray(path.read_bytes())
    size_at = whole.rindex(b"PK\x01\x02") + 24

    for size, said in (
        (300 << 20, "314572800 bytes in an archive; at most 268435456 are read"),
        (100, "damaged in its archive: wrong checksum"),
        (200 << 20, "damaged in its archive: wrong checksum"),
    ):
        struct.pack_into("<I", whole, size_at, size)
        path.write_bytes(whole)

        assert reason(load(path), 1) == said
        assert load(path).splits["train"].images.decode(0).size == (5, 4)


def test_no_more_is_inflated_than_the_directory_says(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"cat/bomb.png": bytes(32 << 20)})
    whole = bytearray(path.read_bytes())
    struct.pack_into("<I", whole, whole.rindex(b"PK\x01\x02") + 24, 1000)
    path.write_bytes(whole)
    images = load(path).splits["train"].images

    tracemalloc.start()
    try:
        looks = list(images.looks())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [look.digest for look in looks] == [b"unreadable file"]
    assert most < 4 << 20


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_flipped_bits_in_a_zip_give_rows_with_a_reason(
    method: int, png: bytes, tmp_path: Path
) -> None:
    path = zipped(tmp_path / "a.zip", {"cat/a.png": png}, method)
    whole = path.read_bytes()
    seen = set()
    for at in (0, 9, 45, 60, 80):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        if at != 9:  # not the time of the file
            seen.add(reason(load(path)))

    assert seen <= {
        "damaged in its archive: no header",
        "damaged in its archive: cannot be inflated",
        "damaged in its archive: wrong checksum",
        "damaged in its archive: cut short",
    }
    assert len(seen) >= 2


def test_an_archive_that_vanishes_stops_the_run_and_loses_no_row(
    png: bytes, tmp_path: Path
) -> None:
    path = zipped(tmp_path / "a.zip", {"cat/a.png": png})
    images = load(path).splits["train"].images

    path.unlink()

    with pytest.raises(StorageError, match=r"a\.zip/cat/a\.png could be read when"):
        images.decode(0)
    with pytest.raises(StorageError, match="cannot be read"):
        list(images.looks())
