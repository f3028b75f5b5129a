"""Answers as CSV, written as they come: what is there is whole rows, whenever it ends."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from featcache.core.files import make_folder, named_failures
from featcache.core.paths import expanded, portable
from featcache.core.side_files import partial_path
from featcache.deployment.predict import ImagePrediction, Predictions
from featcache.errors import LockedError, UsageError

_ROWS_PER_WRITE = 64
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}  # as on FAT


def require_no_table(path: str | os.PathLike[str]) -> Path:
    """Refuse a place where something lies, or where nothing can be written, before any work.

    Raises:
        UsageError: If something lies there.
        StorageError: If its folder cannot be written.
    """
    path = expanded(path)
    if os.path.lexists(path):
        raise UsageError(
            f"{path} exists. Nothing was started. Remove it, or name another file after --csv."
        )
    partial = partial_path(path)
    with named_failures(path, kept="Nothing was started."):
        make_folder(path.parent)
        tempfile.TemporaryFile(dir=path.parent).close()  # no name that another process may take
        with suppress(FileNotFoundError):
            partial.open("r+b").close()
    return path


def write_table(path: Path, predictions: Predictions) -> None:
    """Write a row for each answer, into a file that gets its name when the last one is written.

    Until then it is `<name>.partial`, with whole rows in it; after Ctrl-C it stays so.

    Args:
        path: From `require_no_table`.
        predictions: The answers; they are taken here.

    Raises:
        InterruptedRunError: At Ctrl-C.
        UsageError: If something lies at `path` by now.
        LockedError: If another process writes it.
        StorageError: If it cannot be written; DiskFullError if there is no room.
    """
    partial = partial_path(path)
    with named_failures(partial, kept="The rows before are whole."), _locked(path) as file:
        file.truncate(0)
        _write(file, predictions)
        file.flush()
        os.fsync(file.fileno())
        _name(partial, path)


def _write(file: BinaryIO, predictions: Predictions) -> None:
    ranks = range(1, predictions.n_shown + 1)
    titles = [title for i in ranks for title in (f"class {i}", f"p(class {i})")]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["image", "run", *titles, "reason"])
    n_rows = 0
    try:
        for row in _rows(predictions):
            writer.writerow(row)
            n_rows += 1
            if n_rows % _ROWS_PER_WRITE == 0:
                _empty(text, file)
    finally:
        _empty(text, file)


def _rows(predictions: Predictions) -> Iterator[list[str]]:
    for one in predictions:
        yield [
            portable(one.image),
            portable(one.run),
            *_cells(one, predictions.n_shown),
            one.reason,
        ]


def _cells(one: ImagePrediction, n_shown: int) -> list[str]:
    pairs = zip(one.classes, one.probabilities, strict=True)
    cells = [cell for name, p in pairs for cell in (name, f"{p:.9g}")]
    return cells or [""] * (2 * n_shown)


def _empty(text: io.StringIO, file: BinaryIO) -> None:
    """Hand over the rows so far, whole ones, in one write."""
    file.write(text.getvalue().encode(errors="surrogateescape"))
    file.flush()
    text.seek(0)
    text.truncate()


def _name(partial: Path, path: Path) -> None:
    """Give the file its name, unless another has it: a rename would replace that one."""
    try:
        os.link(partial, path)
    except OSError as err:
        if os.path.lexists(path):
            raise UsageError(f"{path} was made meanwhile. It is as it was; see {partial}.") from err
        if err.errno not in _NO_LINKS:
            raise
        partial.rename(path)
    else:
        partial.unlink()


def _locked(path: Path) -> BinaryIO:
    """Open the partial file as the only one; it may get its name before the lock is had."""
    partial = partial_path(path)
    while True:
        if os.path.lexists(path):
            raise UsageError(f"{path} was made meanwhile. It is as it was; nothing was written.")
        file = partial.open("ab")
        try:
            _lock(file, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise LockedError(
            f"{path} is being written by another process. Nothing was changed. Wait until it is "
            f"done, or name another file after --csv."
        ) from err
