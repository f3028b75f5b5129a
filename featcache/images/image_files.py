"""Images that lie in files of their own below one folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.errors import StorageError
from featcache.images.checked_images import (
    HELD_BYTES,
    NOT_THE_FILES_FAULT,
    UNREADABLE,
    CheckedImages,
)
from featcache.images.headers import header_reader, read_header
from featcache.images.rules import ImageRules
from featcache.images.splits import Look, UnreadableImageError
from featcache.images.stat_index import FileIndex, KnownFiles

_WHOLE_READ_BYTES = 4 * 2**20


@dataclass(frozen=True)
class FolderImages(CheckedImages):
    """Image files below one folder.

    Attributes:
        root: Absolute path of the folder; empty where that is the root of all folders.
        paths: N paths relative to `root`, as this process's locale reads them.
    """

    root: str
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Keep these rows, in this order."""
        paths = tuple(self.paths[i] for i in rows)
        return replace(self, paths=paths, expected=self.expected_at(rows))

    def path_of(self, row: int) -> str:
        """Where one image lies."""
        return f"{self.root}/{self.paths[row]}"

    def name_of(self, row: int) -> str:
        """Give the path below the folder."""
        return self.paths[row]

    def read(self, row: int) -> bytes:
        """Read one file as a whole."""
        with _open(self.path_of(row)) as file:
            return file.read()

    def decode(self, row: int) -> Image.Image:
        """Open one image in mode RGB, as `CheckedImages.decode` does.

        A file of more than 256 MiB is decoded from disk. It is hashed afterwards through the same
        open file, so that no change before the last pixel is missed.
        """
        with contextlib.ExitStack() as stack:
            with self.failures_told(row):
                file = stack.enter_context(_open(self.path_of(row)))
                is_held = os.fstat(file.fileno()).st_size <= HELD_BYTES
                content = file.read() if is_held else b""
            if not is_held:
                return self._decode_large(file, row)
        if self.expected:
            self.require(row, hashlib.sha256(content).digest())
        return self.decoded(io.BytesIO(content), row)

    def _decode_large(self, file: io.FileIO, row: int) -> Image.Image:
        refusal = None
        with io.BufferedReader(file) as buffered:
            try:
                image = self.decoded(buffered, row)
            except UnreadableImageError as err:
                refusal = err
            if self.expected:
                with self.failures_told(row):
                    file.seek(0)
                    digest = hashlib.file_digest(file, "sha256").digest()
                self.require(row, digest)
        if refusal is not None:
            raise refusal
        return image

    def looking(self, known: KnownFiles | None) -> Callable[[int], Look]:
        """Give what looks at one file, or at its stat where that is known."""
        index = None if known is None else known.below(self.root or "/")
        reading = _Reading(self.root, self.rules, header_reader(self.rules), index)
        return lambda row: reading.look(self.paths[row])


@dataclass(frozen=True)
class _Reading:
    """How the files below a folder are hashed."""

    root: str
    rules: ImageRules
    reader: bytes
    index: FileIndex | None

    def look(self, name: str) -> Look:
        """Hash one file, by plain calls: pathlib and file_digest triple the time of small files."""
        path = f"{self.root}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116
            if not stat.S_ISREG(status.st_mode):
                return Look(UNREADABLE)
            if self.index is None:
                return self._read(path)[0]
            look = self.index.known(name, status, reader=self.reader)
            if look is None:
                look, status = self._read(path)
                self.index.add(name, status, look, reader=self.reader)
            return look
        except OSError as err:
            if err.errno in NOT_THE_FILES_FAULT:
                raise StorageError(f"{path} cannot be read: {err}. Nothing was changed.") from err
            return Look(UNREADABLE)

    def _read(self, path: str) -> tuple[Look, os.stat_result]:
        """Hash one file; the stat is of the file that is read, wherever a link leads meanwhile."""
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            if status.st_size < _WHOLE_READ_BYTES:
                content = file.read()
                sha256 = hashlib.sha256(content).digest()
                return Look(sha256, read_header(content, None, self.rules)), status
            sha256 = hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            return Look(sha256, read_header(b"", file, self.rules)), status


def _open(path: str) -> io.FileIO:
    """Open one file; a pipe, a socket or a device is refused, because it may block for ever.

    Plain calls, as in `_Reading`.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
        raise UnreadableImageError("not a regular file")
    return open(path, "rb", buffering=0)  # noqa: PTH123 - the caller closes it
