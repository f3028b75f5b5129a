"""Answers as CSV, written as they come: what is there is whole rows, whenever it ends."""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from featcache.core.files import make_folder, named_failures
from featcache.core.paths import expanded, portable
from featcache.core.side_files import partial_path
from featcache.deployment.predict import ImagePrediction, Predictions
from featcache.errors import LockedError, UsageError
from featcache.store import is_there

_ROWS_PER_WRITE = 64


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
    was_there = is_there(partial)
    with named_failures(path, kept="Nothing was started."):
        make_folder(path.parent)
        partial.open("ab").close()
        if not was_there:  # nothing may come of it
            partial.unlink()
    return path


def write_table(path: Path, predictions: Predictions) -> None:
    """Write a row for each answer, into a file that gets its name when the last one is written.

    Until then it is `<name>.partial`, with whole rows in it; after Ctrl-C it stays so.

    Args:
        path: From `require_no_table`.
        predictions: The answers; they are taken here.

    Raises:
        InterruptedRunError: At Ctrl-C.
        LockedError: If another process writes it.
        StorageError: If it cannot be written; DiskFullError if there is no room.
    """
    partial = partial_path(path)
    with named_failures(partial, kept="The rows before are whole."), partial.open("ab") as file:
        _lock(file, path)
        file.truncate(0)
        _write(file, predictions)
        file.flush()
        os.fsync(file.fileno())
        if is_there(path):
            raise UsageError(f"{path} was made meanwhile. It is as it was; see {partial}.")
        partial.rename(path)


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


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise LockedError(
            f"{path} is being written by another process. Nothing was changed. Wait until it is "
            f"done, or name another file after --csv."
        ) from err
