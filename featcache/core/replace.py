"""Write a file so that it is whole, or as it was before, whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from featcache.core.files import named_failures
from featcache.core.stopping import working


def replace_file(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that it is whole, or as it was before, whatever happens.

    Args:
        path: The file.
        content: What it will hold, or what writes that into an open file.

    Raises:
        StorageError: If the file cannot be written; DiskFullError if there is no room.
    """
    with (
        working(),
        named_failures(path, kept="What was there before is as it was."),
        _whole(path, content) as new,
    ):
        new.replace(path)  # while it is locked


def replace_together(path: Path, write: Callable[[BinaryIO], Mapping[Path, bytes]]) -> None:
    """Write a file and those that describe it; no old one ever describes the new.

    All are whole before one gets its name. Old descriptions go first, and new ones come last: if
    the process dies in between, there is none.

    Args:
        path: The file.
        write: Writes it into an open file, and gives the others, which lie beside it.

    Raises:
        StorageError: If they cannot be written; DiskFullError if there is no room.
    """
    others: dict[Path, bytes] = {}
    with (
        working(),
        named_failures(path, kept="What was there before is as it was."),
        contextlib.ExitStack() as written,
    ):
        new = written.enter_context(_whole(path, lambda file: others.update(write(file))))
        new_others = {p: written.enter_context(_whole(p, content)) for p, content in others.items()}
        with named_failures(path, kept="Nothing describes it now: what did was removed first."):
            for other in new_others:
                other.unlink(missing_ok=True)
            new.replace(path)
            for other, new_other in new_others.items():
                new_other.replace(other)


def write_new_file(path: Path, content: Callable[[BinaryIO], object]) -> bool:
    """Write a file so that it is whole or not there, and replaces nothing.

    Args:
        path: The file.
        content: What writes it into an open file.

    Returns:
        Whether it was written; False if something lies there by now, which is left as it is.

    Raises:
        StorageError: If the file cannot be written; DiskFullError if there is no room.
    """
    with (
        working(),
        named_failures(path, kept="Nothing was written."),
        _whole(path, content) as new,
    ):
        try:
            path.hardlink_to(new)
        except FileExistsError:
            return False
        except OSError:  # no hard links here: an empty file takes the name first
            try:
                path.open("xb").close()
            except FileExistsError:
                return False
            new.replace(path)
        return True


@contextlib.contextmanager
def _whole(path: Path, content: bytes | Callable[[BinaryIO], object]) -> Iterator[Path]:
    """Write a file beside `path` that is whole and on the disk; it is gone afterwards."""
    remove_leftovers(path.parent, glob.escape(path.name))
    with _newborn(path) as (new, file):
        if isinstance(content, bytes):
            file.write(content)
        else:
            _written(content, file)
        file.flush()
        os.fsync(file.fileno())
        yield new


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove what killed processes left of files they were writing.

    Args:
        folder: Where.
        names: Pattern of the files' names.
    """
    for leftover in folder.glob(f".{names}.*.new"):
        with contextlib.suppress(OSError), leftover.open("rb+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else somebody is writing it
            leftover.unlink()


@contextlib.contextmanager
def _newborn(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a new file beside `path`, locked; it is gone afterwards under this name."""
    while True:
        # Several processes may write one file, on several machines.
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        with new.open("xb") as file:
            with contextlib.suppress(OSError):  # no locks here: then nothing is removed either
                fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(file.fileno()).st_nlink:  # taken for a leftover before it was locked
                continue
            try:
                yield new, file
            finally:
                new.unlink(missing_ok=True)
            return


def _written(write: Callable[[BinaryIO], object], file: BinaryIO) -> None:
    """Let torch.save write; for a full disk it raises a RuntimeError of its own."""
    try:
        write(file)
    except RuntimeError as err:
        if isinstance(err.__context__, OSError):
            raise err.__context__ from err
        raise
