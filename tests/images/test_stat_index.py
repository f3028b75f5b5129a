"""Files that are known by their stat are not read; every change that a stat can show is found."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from featcache.core.reporting import silent
from featcache.images.headers import header_reader
from featcache.images.image_files import FolderImages
from featcache.images.rules import ImageRules
from featcache.images.splits import Header, Look
from featcache.images.stat_index import FileIndex, KnownFiles

NAMES = ("a.jpg", "b.jpg", "c/d.jpg")
LATER_NS = 10_000_000_000
POISON = b"P" * 32
READER = header_reader(ImageRules())

Digests = Callable[..., list[bytes]]


def later(
    *, by_ns: int = LATER_NS, rehash: bool = False, on_note: Callable[[str], None] = silent
) -> KnownFiles:
    """Known files of a command that starts seconds after the files were written."""
    known = KnownFiles(rehash=rehash, on_note=on_note)
    known.started_ns += by_ns
    return known


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "c").mkdir(parents=True)
    for name in NAMES:
        (root / name).write_bytes(f"content of {name}".encode())
    return root


@pytest.fixture
def digests(folder: Path) -> Digests:
    def read(known: KnownFiles | None = None, rules: ImageRules = ImageRules()) -> list[bytes]:  # noqa: B008
        looks = list(FolderImages(str(folder), NAMES, rules=rules).looks(known))
        if known is not None:
            known.save()
        return [look.digest for look in looks]

    return read


def poison(folder: Path, *names: str, by_ns: int = LATER_NS) -> None:
    """Write an index that has a wrong digest of these files: whoever gives it did not read them."""
    known = later(by_ns=by_ns)
    for name in names:
        status = (folder / name).stat()
        known.below(str(folder)).add(name, status, Look(POISON), reader=READER)
    known.save()


def index_file(folder: Path) -> Path:
    file = KnownFiles().file(str(folder), "files")
    assert file is not None
    return file


def test_a_file_whose_stat_agrees_is_not_read(folder: Path, digests: Digests) -> None:
    truth = digests()
    poison(folder, "a.jpg")

    assert digests(later()) == [POISON, *truth[1:]]


def test_rehash_reads_all_and_what_it_finds_stays(folder: Path, digests: Digests) -> None:
    truth = digests()
    poison(folder, *NAMES)

    assert digests(later(rehash=True)) == truth
    assert digests(later()) == truth


def test_a_changed_byte_is_found_though_size_and_mtime_are_put_back(
    folder: Path, digests: Digests
) -> None:
    before, file = digests(later()), folder / "b.jpg"
    status = file.stat()

    with file.open("r+b") as opened:
        opened.write(b"C")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert file.stat().st_size == status.st_size
    after = digests(later())
    assert after == digests()
    assert [i for i in range(3) if after[i] != before[i]] == [1]


def test_a_replaced_file_is_found_though_size_and_mtime_are_the_same(
    folder: Path, digests: Digests
) -> None:
    before, file = digests(later()), folder / "b.jpg"
    status = file.stat()
    other = folder / "other"
    other.write_bytes(b"replaced".ljust(status.st_size))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))

    other.replace(file)

    after = digests(later())
    assert after == digests() != before


@pytest.mark.parametrize("field", ["st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"])
def test_a_file_is_known_only_if_all_of_its_stat_agrees(folder: Path, field: str) -> None:
    poison(folder, "a.jpg")
    index, status = later().below(str(folder)), (folder / "a.jpg").stat()
    fields = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}

    assert index.known("a.jpg", SimpleNamespace(**fields)) is not None
    assert index.known("a.jpg", SimpleNamespace(**fields | {field: fields[field] - 1})) is None


@pytest.mark.parametrize(
    ("age_ns", "is_known"), [(0, False), (1_900_000_000, False), (2_100_000_000, True)]
)
def test_a_file_written_within_two_seconds_of_the_index_is_read_again(
    folder: Path, age_ns: int, is_known: bool
) -> None:
    status = (folder / "a.jpg").stat()
    by_ns = max(status.st_mtime_ns, status.st_ctime_ns) + age_ns - time.time_ns()

    poison(folder, "a.jpg", by_ns=by_ns)

    assert (later().below(str(folder)).known("a.jpg", status) is not None) == is_known


def test_a_file_from_the_future_is_always_read(folder: Path, digests: Digests) -> None:
    ahead_ns = time.time_ns() + 10 * LATER_NS
    os.utime(folder / "a.jpg", ns=(ahead_ns, ahead_ns))
    truth = digests()

    poison(folder, "a.jpg")

    assert digests(later()) == truth


def test_what_is_not_asked_for_stays_known_unless_it_changed(
    folder: Path, digests: Digests
) -> None:
    poison(folder, *NAMES)
    (folder / "a.jpg").write_bytes(b"new")
    (folder / "b.jpg").unlink()

    known = later()
    [*FolderImages(str(folder), ("a.jpg",)).looks(known)]
    known.save()

    index = later().below(str(folder))
    status = (folder / "c/d.jpg").stat()
    assert index.known("c/d.jpg", status) == Look(POISON)
    assert index.known("b.jpg", status) is None


def test_an_entry_that_did_not_count_does_not_count_by_a_later_index(folder: Path) -> None:
    poison(folder, "a.jpg", by_ns=0)  # just written: it may have changed since

    known = later()
    [*FolderImages(str(folder), ("b.jpg",)).looks(known)]
    known.save()

    index = later().below(str(folder))
    assert index.known("a.jpg", (folder / "a.jpg").stat()) is None
    assert index.known("b.jpg", (folder / "b.jpg").stat()) is not None


def test_what_the_header_says_is_kept_too(folder: Path) -> None:
    known = later()
    status = (folder / "a.jpg").stat()
    look = Look(b"D" * 32, Header(is_clipped=False, is_turned=True))
    known.below(str(folder)).add("a.jpg", status, look, reader=READER)
    known.save()

    assert later().below(str(folder)).known("a.jpg", status, reader=READER) == look


def test_headers_are_read_again_by_other_rules(folder: Path, digests: Digests) -> None:
    truth = digests()
    poison(folder, *NAMES)

    assert digests(later(), ImageRules(max_pixels=5)) == truth


def test_a_file_that_cannot_be_read_is_not_kept(folder: Path, digests: Digests) -> None:
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").mkdir()

    digests(later())

    status = (folder / "a.jpg").stat()
    assert later().below(str(folder)).known("a.jpg", status) is None


@pytest.mark.parametrize("at", [0, 20, 60, -1])
def test_a_damaged_index_is_thrown_away_and_told(folder: Path, digests: Digests, at: int) -> None:
    truth = digests(later())
    content = bytearray(index_file(folder).read_bytes())
    content[at] ^= 1
    index_file(folder).write_bytes(content)
    notes: list[str] = []

    assert digests(later(on_note=notes.append)) == truth

    assert [note.partition(":")[0] for note in notes] == [
        "an index was thrown away, and all files are read"
    ]
    assert str(index_file(folder)) in notes[0]
    assert digests(later(on_note=notes.append)) == truth
    assert len(notes) == 1


def test_an_index_that_was_cut_short_or_is_a_link_is_thrown_away(
    folder: Path, digests: Digests
) -> None:
    truth = digests(later())
    file = index_file(folder)
    whole = file.read_bytes()
    for i, spoil in enumerate(
        (
            lambda: file.write_bytes(whole[:50]),
            lambda: file.write_bytes(b""),
            lambda: (file.rename(folder / "moved"), file.symlink_to(folder / "moved")),
        )
    ):
        spoil()
        notes: list[str] = []

        assert digests(later(on_note=notes.append)) == truth, i
        assert len(notes) == 1, i


def test_the_index_of_another_folder_is_not_taken(folder: Path, tmp_path: Path) -> None:
    poison(folder, *NAMES)
    there = tmp_path / "there"
    folder.rename(there)
    index_file(folder).rename(index_file(there))
    notes: list[str] = []

    later(on_note=notes.append).below(str(there))

    assert f"it is the index of {str(folder)!r}" in notes[0]


def test_a_folder_that_others_can_write_to_is_not_trusted(folder: Path, digests: Digests) -> None:
    truth = digests()
    poison(folder, *NAMES)
    index_file(folder).parent.chmod(0o777)
    notes: list[str] = []

    assert digests(later(on_note=notes.append)) == truth

    assert len(notes) == 1
    assert "must be yours" in notes[0]
    assert "could have a changed image taken for a known one" in notes[0]


def test_without_a_home_nothing_is_known_and_nothing_is_kept(
    folder: Path, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "nowhere")

    known = later()

    assert digests(known) == digests()
    assert known.file(str(folder), "files") is None


def test_an_index_that_cannot_be_written_is_told(folder: Path, digests: Digests) -> None:
    index_file(folder).mkdir()
    notes: list[str] = []
    known = later(on_note=notes.append)

    assert digests(known) == digests()

    assert any("will be read again next time" in note for note in notes)


def test_names_that_are_not_utf8_are_known_too(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.jpg")
    (tmp_path / name).write_bytes(b"content")
    known = later()
    [look] = FolderImages(str(tmp_path), (name,)).looks(known)
    known.save()

    status = (tmp_path / name).stat()
    assert later().below(str(tmp_path)).known(name, status) == look


@pytest.fixture
def many(tmp_path: Path) -> Path:
    root = tmp_path / "many"
    root.mkdir()
    for i in range(500):
        (root / f"{i}.jpg").write_bytes(bytes([i % 256]) * i)
    return root


def test_two_processes_at_once_leave_a_whole_index(many: Path) -> None:
    code = (
        "import sys\n"
        "from featcache.images.image_files import FolderImages\n"
        "from featcache.images.stat_index import KnownFiles\n"
        "for turn in range(5):\n"
        "    names = [f'{i}.jpg' for i in range(turn * 100)] + [f'{i}.jpg' for i in range(500)]\n"
        "    known = KnownFiles(on_note=print, rehash=bool(turn % 2))\n"
        "    known.started_ns += 10**10\n"
        "    looks = list(FolderImages(sys.argv[1], tuple(names)).looks(known))\n"
        "    known.save()\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(many)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[0] for process in both]

    assert told == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    index = later().below(str(many))
    truth = FolderImages(str(many), ("7.jpg", "499.jpg")).looks()
    for name, look in zip(("7.jpg", "499.jpg"), truth, strict=True):
        assert index.known(name, (many / name).stat()) == look
    assert not index.is_changed


class OneIndex(KnownFiles):
    """Known files that are all in one index, which acts in the moment after a stat was taken."""

    def __init__(self, index: FileIndex) -> None:
        super().__init__()
        self.index = index

    def below(self, folder: str) -> FileIndex:
        return self.index


class Switching(FileIndex):
    """An index in whose folder the link "x.jpg" leads to another file once it was asked for."""

    def known(self, name: str, status: os.stat_result, *, reader: bytes = b"") -> Look | None:
        look = super().known(name, status, reader=reader)
        link_to(Path(self.folder), "b.jpg")
        return look


def link_to(folder: Path, name: str) -> None:
    (folder / "x.jpg").unlink(missing_ok=True)
    (folder / "x.jpg").symlink_to(name)


@pytest.mark.parametrize("is_image", [True, False])
def test_a_link_that_is_switched_meanwhile_gives_no_file_the_digest_of_another(
    folder: Path, is_image: bool
) -> None:
    link_to(folder, "a.jpg")
    index = Switching(str(folder), started_ns=time.time_ns() + LATER_NS)
    known = OneIndex(index)

    if is_image:
        [*FolderImages(str(folder), ("x.jpg",)).looks(known)]
    else:
        known.sha256_below(str(folder), "x.jpg")

    assert index.known("x.jpg", (folder / "a.jpg").stat()) is None
    seen = index.known("x.jpg", (folder / "b.jpg").stat())
    assert seen is not None
    assert seen.digest == hashlib.sha256(b"content of b.jpg").digest()


def test_one_stat_tells_of_all_that_an_archive_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = folder / "a.jpg"
    known = later()
    for i in range(9):
        known.below(str(pack)).add(f"{i}.png", pack.stat(), Look(POISON))
    known.save()
    index = later().below(str(pack))
    stats: list[object] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **how: stats.append(path) or stat(path, **how))

    index.to_bytes()

    assert stats == [str(pack)]
    assert index.known("8.png", pack.stat()) is not None


def test_names_that_no_locale_can_write_are_known_too(folder: Path) -> None:
    pack, name = folder / "a.jpg", "\ud800 bild_ä/0/1"  # a column of a table may be called so
    known = later()
    known.below(str(pack)).add(name, pack.stat(), Look(POISON))

    known.save()

    assert later().below(str(pack)).known(name, pack.stat()) == Look(POISON)


def test_an_index_that_is_empty_knows_nothing(folder: Path) -> None:
    index = FileIndex(str(folder), started_ns=time.time_ns() + LATER_NS)

    assert index.known("a.jpg", (folder / "a.jpg").stat()) is None
