"""A file that is replaced: whole or as it was, and no trace of who was killed meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from featcache.core.replace import write_new_file
from featcache.errors import DiskFullError, StorageError
from featcache.store import remove_leftovers, replace_file


def left_by_a_killed_process(path: Path) -> Path:
    """What a process leaves that is killed while it writes `path`; made by such a process."""

    def die(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        replace_file(path, die)
    os.waitpid(pid, 0)
    [leftover] = path.parent.glob(f".{path.name}.*.new")
    return leftover


def test_a_file_is_replaced_whole_with_the_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    usual = tmp_path / "usual"
    usual.touch()

    replace_file(path, b"new")

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode == usual.stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["usual", "x.json"]


def test_what_killed_processes_left_of_a_file_is_removed_when_it_is_written_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sweep-1234.partial"
    ours = [left_by_a_killed_process(path), tmp_path / f".{path.name}.4711.new"]  # by featcache 0.1
    others = [tmp_path / ".sweep-5678.partial.4711.new", tmp_path / ".notes.new"]
    for file in (ours[1], *others):
        file.write_bytes(b"half")

    replace_file(path, b"whole")

    assert not any(file.exists() for file in ours)
    assert all(file.exists() for file in others)
    remove_leftovers(tmp_path, "sweep-*")
    assert [file.exists() for file in others] == [False, True]
    assert path.read_bytes() == b"whole"


def test_a_file_that_another_process_is_writing_is_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "x.json"

    def write_twice(file: BinaryIO) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                file.close()
                replace_file(path, b"the other's")
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        file.write(b"whole")

    replace_file(path, write_twice)

    assert path.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


Write = Callable[[BinaryIO], object]


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """A file system of 1 MiB with a file on it, where this user may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    "content",
    [bytes(2 << 20), lambda file: torch.save({"a": torch.zeros(1 << 18)}, file)],
    ids=["bytes", "torch.save, which raises a RuntimeError"],
)
def test_a_full_disk_is_named_and_keeps_what_was_there(full_disk: Path, content: Write) -> None:
    path = full_disk / "sweep-1234.partial"
    path.write_bytes(b"old")

    with pytest.raises(DiskFullError, match=r"No space left .*What was there before is as it was"):
        replace_file(path, content)

    assert [p.name for p in full_disk.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_another_error_of_what_writes_is_not_taken_for_the_disks(tmp_path: Path) -> None:
    def break_off(_: BinaryIO) -> None:
        raise RuntimeError("no tensor")

    with pytest.raises(RuntimeError, match="no tensor") as err:
        replace_file(tmp_path / "x", break_off)

    assert not isinstance(err.value, StorageError)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["hard links", "no hard links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with hard links, and one without."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if request.param == "no hard links":
        monkeypatch.setattr(os, "link", refused)


@pytest.mark.usefixtures("links")
def test_a_new_file_is_whole_and_never_takes_the_place_of_another(tmp_path: Path) -> None:
    path, theirs = tmp_path / "new.bin", tmp_path / "theirs.bin"

    def write_late(file: BinaryIO) -> None:
        file.write(b"mine")
        theirs.write_bytes(b"theirs")

    assert write_new_file(path, lambda file: file.write(b"mine"))
    assert not write_new_file(theirs, write_late)

    assert path.read_bytes() == b"mine"
    assert theirs.read_bytes() == b"theirs"
    assert sorted(tmp_path.iterdir()) == [path, theirs]
