"""List the files of a tar archive by the headers in front of them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from featcache.errors import DatasetError, FeatcacheError
from featcache.images.archives.member import ArchivedFile, name_in_archive, refused
from featcache.images.image_names import is_image_name

_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


def list_tar(path: str, *, number: int = 0) -> Iterator[ArchivedFile]:
    """List the files of a tar archive, in its order.

    Args:
        path: The archive.
        number: Its number among several.

    Raises:
        DatasetError: If it is no tar archive, is compressed or cut short, or has an image that is a
            link, or a file of a name outside the archive.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            _require_plain(path, file.read(8))
            file.seek(0)
            with tarfile.open(
                fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
            ) as archive:
                for info in archive:
                    archive.members = []  # type: ignore[attr-defined] # else it keeps them all
                    if (member := _member(path, info, number)) is not None:
                        yield member
                end = archive.offset
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("the blocks of zeros that end an archive are missing")
    except FeatcacheError:  # some are OSErrors
        raise
    except OSError as err:
        raise DatasetError(f"{path!r} cannot be read: {err.strerror or err}.") from err
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, MemoryError) as err:
        raise DatasetError(
            f"{path!r} is no tar archive, or is cut short or damaged: {err}. Nothing was "
            f"extracted. Copy or download it again; tar tf lists it."
        ) from err


def _member(path: str, info: tarfile.TarInfo, number: int) -> ArchivedFile | None:
    name = name_in_archive(path, info.name)
    if name is None or info.isdir():
        return None
    if not info.isreg() or info.issparse():
        if is_image_name(name):
            what = "a link" if info.islnk() or info.issym() else "no plain file"
            raise refused(
                path,
                info.name,
                f"is {what}",
                "Make the archive again with tar --dereference --hard-dereference.",
            )
        return None
    return ArchivedFile(name, number, info.offset_data, info.size, info.size)


def _require_plain(path: str, start: bytes) -> None:
    for magic, command in _COMPRESSED.items():
        if start.startswith(magic):
            raise DatasetError(
                f"{path!r} is compressed as a whole, so that no image in it can be read alone. "
                f"Nothing was extracted. Inflate it ({command}); images hardly take more room so."
            )
