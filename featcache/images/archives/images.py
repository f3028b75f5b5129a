"""Images that are read out of zip and tar archives, one at a time."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from featcache.images.archives.member import DEFLATED, IN_TAR, ArchivedFile
from featcache.images.checked_images import HELD_BYTES
from featcache.images.packed_images import PackedImages
from featcache.images.splits import UnreadableImageError

_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True, eq=False)
class ArchiveImages(PackedImages):
    """Image files in archives.

    Attributes:
        archives: Absolute paths of the archives.
        names: N paths of images in their archive.
        places: (N, 6) int64, the other fields of `ArchivedFile`, in its order.
    """

    archives: tuple[str, ...]
    names: tuple[str, ...]
    places: npt.NDArray[np.int64]

    @classmethod
    def of(cls, archives: tuple[str, ...], members: Sequence[ArchivedFile]) -> Self:
        """Take these members, in this order."""
        names = tuple(member.name for member in members)
        places = np.array([member[1:] for member in members], np.int64)
        return cls(archives, names, places.reshape(-1, len(ArchivedFile._fields) - 1))

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Keep these rows, in this order."""
        names = tuple(self.names[i] for i in rows)
        expected = self.expected_at(rows)
        return replace(self, names=names, places=self.places[rows], expected=expected)

    def path_of(self, row: int) -> str:
        """Where one image lies: the archive, and the path in it."""
        return f"{self.archives[self.places[row, 0]]}/{self.names[row]}"

    def name_of(self, row: int) -> str:
        """Give the path in the archive."""
        return self.names[row]

    @property
    def packs(self) -> Sequence[str]:
        """The archives."""
        return self.archives

    def place_of(self, row: int) -> tuple[int, str]:
        """Say in which archive one image lies, and its path there."""
        return int(self.places[row, 0]), self.names[row]

    def read(self, row: int) -> bytes:
        """Read one file out of its archive; a zip's checksum is compared."""
        member = ArchivedFile(self.names[row], *map(int, self.places[row]))
        return read_member(self.archives[member.archive], member)


def read_member(path: str, member: ArchivedFile, *, most: int = HELD_BYTES) -> bytes:
    """Read one file out of an archive.

    No more is inflated than the archive's directory says, and no more than `most`.

    Raises:
        UnreadableImageError: If it is larger, or damaged, with the reason.
        OSError: If the archive cannot be read.
    """
    if (nbytes := max(member.size, member.nbytes)) > most:
        raise UnreadableImageError(f"{nbytes} bytes in an archive; at most {most} are read")
    if min(member.offset, member.size, member.nbytes) < 0:
        raise UnreadableImageError("damaged in its archive: no header")
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs more than small files do
        file.seek(member.offset)
        if member.method != IN_TAR:
            header = file.read(_LOCAL_HEADER_BYTES)
            if header[:4] != _LOCAL_HEADER or len(header) < _LOCAL_HEADER_BYTES:
                raise UnreadableImageError("damaged in its archive: no header")
            n_name, n_extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            file.seek(n_name + n_extra, os.SEEK_CUR)
        content = file.read(member.nbytes)
    if len(content) < member.nbytes:
        raise UnreadableImageError("damaged in its archive: cut short")
    if member.method == IN_TAR:
        return content
    if member.method == DEFLATED:
        content = _inflated(content, member.size)
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise UnreadableImageError("damaged in its archive: wrong checksum")
    return content


def _inflated(content: bytes, size: int) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflate.decompress(content, size + 1)
    except zlib.error as err:
        raise UnreadableImageError("damaged in its archive: cannot be inflated") from err
