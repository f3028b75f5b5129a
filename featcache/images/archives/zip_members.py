"""List the files of a zip archive by its central directory."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib

from featcache.errors import DatasetError
from featcache.images.archives.member import (
    DEFLATED,
    STORED,
    ArchivedFile,
    name_in_archive,
    refused,
    require_no_duplicates,
)
from featcache.images.image_names import is_image_name

# What zipfile raises of damaged bytes.
_DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    EOFError,
    IndexError,
    MemoryError,
    OverflowError,
    ValueError,
    struct.error,
    zlib.error,
)
# Source: PKWARE's APPNOTE.TXT, 4.4.5.
_OTHER_METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz"}
_ENCRYPTED, _NAME_IS_UTF8 = 0x1, 0x800
_BEYOND_ANY_FILE = 2**63


def list_zip(path: str) -> list[ArchivedFile]:
    """List the files of a zip archive, in the order of its directory.

    Raises:
        DatasetError: If it is no zip archive, is cut short, or has a file that cannot be read
            safely where it lies: encrypted, a link, of a name outside the archive, or twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except OSError as err:
        raise DatasetError(f"{path!r} cannot be read: {err.strerror or err}.") from err
    except _DAMAGED as err:
        raise DatasetError(
            f"{path!r} is no zip archive, or is cut short or damaged: {err}. Nothing was "
            f"extracted. Copy or download it again; unzip -t checks it."
        ) from err
    members = [member for info in infos if (member := _member(path, info)) is not None]
    require_no_duplicates((path,), members)
    return members


def _member(path: str, info: zipfile.ZipInfo) -> ArchivedFile | None:
    name = name_in_archive(path, _name(info))
    if name is None or info.is_dir():
        return None
    if is_image_name(name):
        _require_readable(path, info)
    method = info.compress_type
    nbytes, size, offset = info.compress_size, info.file_size, info.header_offset
    if max(nbytes, size, offset) >= _BEYOND_ANY_FILE:
        raise refused(
            path, name, "is said to lie beyond any file", "Copy or download the archive again."
        )
    return ArchivedFile(name, 0, offset, nbytes, size, method, info.CRC)


def _name(info: zipfile.ZipInfo) -> str:
    """Read a name as UTF-8, which most programs write whether they say so or not."""
    if info.flag_bits & _NAME_IS_UTF8:
        return info.orig_filename
    try:
        return info.orig_filename.encode("cp437").decode()
    except UnicodeDecodeError:
        return info.orig_filename


def _require_readable(path: str, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    if info.flag_bits & _ENCRYPTED:
        raise refused(path, name, "is encrypted", "Unpack the archive, and take folder:PATH.")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise refused(
            path, name, "is a link", "Make the archive again with the files behind the links."
        )
    if info.compress_type not in (STORED, DEFLATED):
        method = _OTHER_METHODS.get(info.compress_type, str(info.compress_type))
        raise refused(
            path,
            name,
            f"is compressed by {method!r}, which cannot be read",
            "Make the archive again with the usual method (zip -r), or unpack it and take "
            "folder:PATH.",
        )
