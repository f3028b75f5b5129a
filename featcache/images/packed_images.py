"""Images of which many lie in one file: an archive, or a table."""

from __future__ import annotations

import hashlib
import os
import stat
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from featcache.errors import DatasetError, MismatchError
from featcache.images.checked_images import UNREADABLE, CheckedImages
from featcache.images.headers import header_reader, read_header
from featcache.images.splits import Look, UnreadableImageError
from featcache.images.stat_index import FileIndex, KnownFiles, stat_bytes


class Pack(NamedTuple):
    """A file that holds many images.

    Attributes:
        path: Its absolute path.
        stat: What its stat was before it was opened for its directory, so that labels and places
            are those of this file. Empty if nothing was there.
    """

    path: str
    stat: bytes

    @classmethod
    def at(cls, path: str) -> Pack:
        """Take the stat of a file, before its directory is read.

        Raises:
            DatasetError: If it is a folder, or a pipe or a device, which may block for ever.
        """
        try:
            status = os.stat(path)  # noqa: PTH116 - one may be asked for of 100,000 shards
        except OSError:
            return cls(path, b"")  # who opens it says why
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{path!r} is no regular file. Nothing was extracted.")
        return cls(path, stat_bytes(status))


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedImages(CheckedImages):
    """Images in files that hold many; while such a file is as it was, none is read again.

    Attributes:
        packs: These files.
        names: N names of image files, which may be empty.
        places: (N, P) int64: the number of the file, and where the image is in it.
    """

    packs: tuple[Pack, ...]
    names: tuple[str, ...]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Keep these rows, in this order."""
        names = tuple(self.names[i] for i in rows)
        expected = self.expected_at(rows)
        return replace(self, names=names, places=self.places[rows], expected=expected)

    def name_of(self, row: int) -> str:
        """Give the name of the image's file."""
        return self.names[row]

    def pack_of(self, row: int) -> Pack:
        """Give the file that one image lies in."""
        return self.packs[int(self.places[row, 0])]

    @abstractmethod
    def place_of(self, row: int) -> str:
        """Say what names one image in its file."""

    @abstractmethod
    def read_from(self, row: int) -> tuple[bytes, os.stat_result]:
        """Read one image as `read` does, with the stat of the opened file that it came from."""

    def read(self, row: int) -> bytes:
        """Read the bytes of one image."""
        return self.read_from(row)[0]

    def looking(self, known: KnownFiles | None) -> Callable[[int], Look]:
        """Give what looks at one row, or at the stat of the file that it is in.

        It raises a MismatchError if that is another file than the one whose directory was read.
        """
        reader = header_reader(self.rules)
        indexes = [None if known is None else known.below(pack.path) for pack in self.packs]

        def look(row: int) -> Look:
            pack, index = self.pack_of(row), indexes[self.places[row, 0]]
            with self.disk_told(row):
                status = os.stat(pack.path)  # noqa: PTH116 - as for files of their own
            _require_same(pack, status)
            seen = None if index is None else index.known(self.place_of(row), status, reader=reader)
            return self._look_inside(row, index, reader) if seen is None else seen

        return look

    def _look_inside(self, row: int, index: FileIndex | None, reader: bytes) -> Look:
        try:
            with self.disk_told(row):
                content, status = self.read_from(row)
        except UnreadableImageError:
            return Look(UNREADABLE)
        _require_same(self.pack_of(row), status)
        seen = Look(hashlib.sha256(content).digest(), read_header(content, None, self.rules))
        if index is not None:
            index.add(self.place_of(row), status, seen, reader=reader)
        return seen


def _require_same(pack: Pack, status: os.stat_result) -> None:
    if stat_bytes(status) != pack.stat:
        raise MismatchError(
            f"{pack.path} is another file than when the dataset was opened: it changed since. Its "
            f"labels may be of other images. All acknowledged rows are kept. Run the same command "
            f"again, and leave the file as it is meanwhile."
        )
