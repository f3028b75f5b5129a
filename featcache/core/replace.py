"""Replace a file so that it is whole, or as it was before, whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
from collections.abc import Callable, Iterator
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
    with working(), named_failures(path, kept="What was there before is as it was."):
        remove_leftovers(path.parent, glob.escape(path.name))
        with _newborn(path) as (new, file):
            if isinstance(content, bytes):
                file.write(content)
            else:
                _written(content, file)
            file.flush()
            os.fsync(file.fileno())
            new.replace(path)  # while it is locked


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
