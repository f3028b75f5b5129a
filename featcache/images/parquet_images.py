"""Images whose bytes stand in a column of Parquet files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from featcache.errors import DatasetError, FeatcacheError, clipped
from featcache.images.checked_images import HELD_BYTES
from featcache.images.packed_images import PackedImages
from featcache.images.splits import UnreadableImageError
from featcache.images.stat_index import stat_bytes

_MOST_GROUP_BYTES = 2**31
_ROWS_AT_ONCE = 8


class _Group(NamedTuple):
    """The images of a row group.

    Attributes:
        place: The number of the file, and of the group in it.
        status: The stat of the file that was opened.
        parts: Arrays of `_ROWS_AT_ONCE` images.
    """

    place: tuple[int, int]
    status: os.stat_result
    parts: Sequence[Any]


class _Held:
    """The row group that was read last, of this process alone."""

    def __init__(self) -> None:
        self.group: _Group | None = None

    def __reduce__(self) -> tuple[type[_Held], tuple[()]]:
        return _Held, ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ParquetImages(PackedImages):
    """Images in a column of Parquet files; places are the file, the row group and the row in it.

    A row group is read as a whole, once for the rows that follow each other in it.

    Attributes:
        column: The column with the bytes; "image.bytes" is a field of a struct.
    """

    column: str
    held: _Held = field(default_factory=_Held, repr=False)

    n_threads: ClassVar[int] = 1

    def path_of(self, row: int) -> str:
        """Where one image lies: the file, the row group and the row."""
        _, group, at = map(int, self.places[row])
        return f"{self.pack_of(row).path}/row group {group}/row {at}"

    def place_of(self, row: int) -> str:
        """Say in which row of which group one image lies."""
        _, group, at = map(int, self.places[row])
        return f"{self.column}/{group}/{at}"

    def read_from(self, row: int) -> tuple[bytes, os.stat_result]:
        """Take the bytes of one image out of its row group.

        Raises:
            DatasetError: If the row group is damaged, or fills the memory.
        """
        file, group, at = map(int, self.places[row])
        path, held = self.pack_of(row).path, self.held.group
        if held is None or held.place != (file, group) or not _is_of(path, held.status):
            self.held.group = None  # its memory is free before that of the next is taken
            held = self.held.group = _Group((file, group), *_images_of(path, group, self.column))
        part, at_part = divmod(at, _ROWS_AT_ONCE)
        if part >= len(held.parts) or at_part >= len(held.parts[part]):
            raise DatasetError(
                f"{path!r}, row group {group}, is damaged: it has no row {at}. Copy or download "
                f"the file again."
            )
        content = held.parts[part][at_part].as_py()
        if isinstance(content, dict):
            content = content["bytes"]
        if content is None:
            raise UnreadableImageError("no bytes in its row")
        if len(content) > HELD_BYTES:
            raise UnreadableImageError(f"{len(content)} bytes; at most {HELD_BYTES} are read")
        return bytes(content), held.status


def _is_of(path: str, status: os.stat_result) -> bool:
    return stat_bytes(os.stat(path)) == stat_bytes(status)  # noqa: PTH116 - once for each row


def _images_of(path: str, group: int, column: str) -> tuple[os.stat_result, list[Any]]:
    """Read the images of a row group a few at a time.

    A dictionary in the file may stand for many times its own size, so the sum is known only so.
    """
    from pyarrow import parquet

    parts: list[Any] = []
    nbytes = 0
    with (
        open(path, "rb") as opened,  # noqa: PTH123
        damage_told(f"{path!r}, row group {group}, is damaged"),
        # Checksums of pages are compared where the writer left some.
        parquet.ParquetFile(opened, page_checksum_verification=True) as file,
    ):
        status = os.fstat(opened.fileno())
        for batch in file.iter_batches(
            _ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False
        ):
            nbytes += batch.nbytes
            require_small(path, group, nbytes)
            parts.append(batch.column(0))
    return status, parts


def require_small(path: str, group: int, nbytes: int) -> None:
    """Refuse a row group that would fill the memory.

    Raises:
        DatasetError: If it has more than 2 GiB in the columns that are read.
    """
    if nbytes > _MOST_GROUP_BYTES:
        raise DatasetError(
            f"{path!r}, row group {group}, has {nbytes} bytes or more in the columns that are "
            f"read; at most {_MOST_GROUP_BYTES} are held in memory. Nothing was extracted. Write "
            f"the file again with fewer rows in a group (row_group_size=100)."
        )


@contextlib.contextmanager
def damage_told(what: str) -> Iterator[None]:
    """Say in our words that pyarrow cannot read a file, for all that it raises of damaged bytes.

    Raises:
        DatasetError: Beginning with `what`.
        OSError: If it was the file system that refused.
    """
    import pyarrow

    try:
        yield
    except FeatcacheError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, OverflowError) as err:
        if isinstance(err, OSError) and err.errno is not None:
            raise
        said = clipped(" ".join(str(err).split()))
        raise DatasetError(f"{what}: {said}. Copy or download the file again.") from err
