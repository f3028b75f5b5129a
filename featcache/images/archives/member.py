"""What is known of one file in an archive, and which files no archive may have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from featcache.core.paths import native
from featcache.errors import DatasetError, clipped
from featcache.images.image_names import is_litter

IN_TAR = -1
_MOST_CHARACTERS = 4096  # of a path
STORED, DEFLATED = 0, 8


class ArchivedFile(NamedTuple):
    """One file in an archive.

    Attributes:
        name: Its path in the archive, without a leading "./".
        archive: Which of several archives it is in.
        offset: Where its bytes begin in a tar, and its own header in a zip.
        nbytes: How many bytes it takes there.
        size: How many it has once they are inflated.
        method: `IN_TAR`, or how a zip holds it: `STORED` or `DEFLATED`.
        crc: The CRC-32 of its bytes, in a zip.
    """

    name: str
    archive: int
    offset: int
    nbytes: int
    size: int
    method: int = IN_TAR
    crc: int = 0


def name_in_archive(path: str, name: str) -> str | None:
    """Take the name of a member, as UTF-8 with surrogate escapes.

    Args:
        path: The archive.
        name: As the archive says it.

    Returns:
        The name as this process's locale reads its bytes; None for a hidden file, or one that
        operating systems leave behind.

    Raises:
        DatasetError: If it would lie outside the folder that the archive is unpacked into.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    is_path = len(name) <= _MOST_CHARACTERS and not name.startswith("/") and ".." not in parts
    if not is_path or "\\" in name or "\0" in name:
        raise refused(
            path,
            name,
            "has a name that is no path below the archive",
            "Make the archive again from within the folder of the images.",
        )
    return None if any(map(is_litter, parts)) else native("/".join(parts))


def refused(path: str, member: str, why: str, way_out: str) -> DatasetError:
    """Refuse an archive for one of its members."""
    return DatasetError(
        f"{clipped(repr(member))} in {path!r} {why}. Nothing was extracted. {way_out}"
    )


def require_no_duplicates(paths: tuple[str, ...], members: Iterable[ArchivedFile]) -> None:
    """Refuse two files of one name, of which unpacking would keep only one.

    Raises:
        DatasetError: Naming the first.
    """
    seen: dict[str, int] = {}
    for member in members:
        if member.name in seen:
            also = paths[seen[member.name]]
            where = "twice" if seen[member.name] == member.archive else f"and in {also!r}"
            raise refused(
                paths[member.archive],
                member.name,
                f"is there {where}",
                "Give each image a name of its own.",
            )
        seen[member.name] = member.archive
