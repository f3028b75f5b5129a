"""Images whose bytes stand in a column of Parquet files, and the reading of a row group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from featcache.errors import DatasetError, FeatcacheError, clipped
from featcache.images.checked_images import HELD_BYTES
from featcache.images.packed_images import PackedImages
from featcache.images.splits import UnreadableImageError


class _Held:
    """The row group that was read last, of this process alone."""

    def __init__(self) -> None:
        self.group: tuple[tuple[int, int], Any] | None = None  # its place and its values, at once

    def __reduce__(self) -> tuple[type[_Held], tuple[()]]:
        return _Held, ()


@dataclass(frozen=True, eq=False)
class ParquetImages(PackedImages):
    """Images in a column of Parquet files.

    A row group is read as a whole, once for the rows that follow each other in it.

    Attributes:
        files: Absolute paths.
        column: The column with the bytes; "image.bytes" is a field of a struct.
        names: N names of image files, which may be empty.
        places: (N, 3) int64: the file, the row group in it, the row in that.
    """

    files: tuple[str, ...]
    column: str
    names: tuple[str, ...]
    places: npt.NDArray[np.int64]
    held: _Held = field(default_factory=_Held, repr=False)

    n_threads: ClassVar[int] = 1

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Keep these rows, in this order."""
        names = tuple(self.names[i] for i in rows)
        expected = self.expected_at(rows)
        return replace(self, names=names, places=self.places[rows], expected=expected)

    def path_of(self, row: int) -> str:
        """Where one image lies: the file, the row group and the row."""
        file, group, at = map(int, self.places[row])
        return f"{self.files[file]}/row group {group}/row {at}"

    def name_of(self, row: int) -> str:
        """Give the name of the image's file, if the table says one."""
        return self.names[row]

    @property
    def packs(self) -> Sequence[str]:
        """The files."""
        return self.files

    def place_of(self, row: int) -> tuple[int, str]:
        """Say in which file one image lies, and in which row of which group."""
        file, group, at = map(int, self.places[row])
        return file, f"{self.column}/{group}/{at}"

    def read(self, row: int) -> bytes:
        """Take the bytes of one image out of its row group.

        Raises:
            DatasetError: If the row group is damaged.
        """
        file, group, at = map(int, self.places[row])
        held = self.held.group
        if held is None or held[0] != (file, group):
            self.held.group = None  # its memory is free before that of the next is taken
            table = read_group(self.files[file], group, [self.column])
            held = self.held.group = ((file, group), table.column(0))
        content = held[1][at].as_py()
        if isinstance(content, dict):
            content = content["bytes"]
        if content is None:
            raise UnreadableImageError("no bytes in its row")
        if len(content) > HELD_BYTES:
            raise UnreadableImageError(f"{len(content)} bytes; at most {HELD_BYTES} are read")
        return bytes(content)


def read_group(path: str, group: int, columns: Sequence[str]) -> Any:
    """Read columns of one row group as a pyarrow.Table.

    Raises:
        DatasetError: If it is damaged, with the file and the row group.
        OSError: If the file system refuses.
    """
    from pyarrow import parquet

    with (
        damage_told(f"{path!r}, row group {group}, is damaged"),
        # Checksums of pages are compared where the writer left some.
        parquet.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        return file.read_row_group(group, columns=list(columns), use_threads=False)


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
