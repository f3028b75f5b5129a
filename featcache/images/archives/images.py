"""Images that are read out of zip and tar archives, one at a time."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

import numpy as np

from featcache.images.archives.member import DEFLATED, IN_TAR, ArchivedFile
from featcache.images.checked_images import HELD_BYTES
from featcache.images.packed_images import Pack, PackedImages
from featcache.images.splits import UnreadableImageError

_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True, kw_only=True, eq=False)
class ArchiveImages(PackedImages):
    """Image files in archives; places are the other fields of `ArchivedFile`, in its order."""

    @classmethod
    def of(cls, archives: tuple[Pack, ...], members: Sequence[ArchivedFile]) -> Self:
        """Take these members, in this order."""
        names = tuple(member.name for member in members)
        places = np.array([member[1:] for member in members], np.int64)
        places = places.reshape(-1, len(ArchivedFile._fields) - 1)
        return cls(packs=archives, names=names, places=places)

    def path_of(self, row: int) -> str:
        """Where one image lies: the archive, and the path in it."""
        return f"{self.pack_of(row).path}/{self.names[row]}"

    def place_of(self, row: int) -> str:
        """Give the path in the archive."""
        return self.names[row]

    def read_from(self, row: int) -> tuple[bytes, os.stat_result]:
        """Read one file out of its archive; a zip's checksum is compared."""
        member = ArchivedFile(self.names[row], *map(int, self.places[row]))
        # pathlib costs more than small files do
        with open(self.pack_of(row).path, "rb") as archive:  # noqa: PTH123
            status = os.fstat(archive.fileno())  # before the read: what is written then changes it
            return _member_in(archive, member, HELD_BYTES), status


def read_member(path: str, member: ArchivedFile, *, most: int = HELD_BYTES) -> bytes:
    """Read one file out of an archive.

    No more is inflated than the archive's directory says, and no more than `most`.

    Raises:
        UnreadableImageError: If it is larger, or damaged, with the reason.
        OSError: If the archive cannot be read.
    """
    with open(path, "rb") as archive:  # noqa: PTH123
        return _member_in(archive, member, most)


def _member_in(file: BinaryIO, member: ArchivedFile, most: int) -> bytes:
    if (nbytes := max(member.size, member.nbytes)) > most:
        raise UnreadableImageError(f"{nbytes} bytes in an archive; at most {most} are read")
    if min(member.offset, member.size, member.nbytes) < 0:
        raise UnreadableImageError("damaged in its archive: no header")
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
