"""One split of a cache, read from the file that was opened, even if it is renamed or removed."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.files import named_read_failures, read_into
from featcache.store.manifest import Extent

_BYTES_AT_ONCE = 16 << 20


class OpenedFile:
    """A file that stays open as long as anybody holds this.

    A cache may be removed or replaced while a head is trained on it. The open file is still the one
    that was verified.

    Attributes:
        path: Where it was.
        fd: Its descriptor, to be read with offsets alone.
    """

    def __init__(self, path: Path, open_it: Callable[[Path], int]) -> None:
        """Open it; a copy, as in another process, opens it again."""
        self.path = path
        self.fd = open_it(path)
        self._open_it = open_it
        weakref.finalize(self, os.close, self.fd)

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenedFile, (self.path, self._open_it)


@dataclass(frozen=True, eq=False)
class CacheSplit:
    """One split of a cache.

    Attributes:
        name: "train", "val", "test", ...
        n_rows: N.
        n_views: K, how many views of each image it holds.
    """

    name: str
    n_rows: int
    _file: OpenedFile = field(repr=False)
    _columns: Mapping[str, Extent] = field(repr=False)
    n_views: int = 1

    def __len__(self) -> int:
        return self.n_rows

    @cached_property
    def features(self) -> npt.NDArray[Any]:
        """The features, (N, D) float32 or float16, or (N, H, W, 3) uint8 for `pixels`.

        Of several views of each image, they are those of the plain one. They are mapped and
        read-only. A program that uses them when the file has become shorter is ended by the system
        (SIGBUS); what `read` gives is safe from that.
        """
        mapped = self._mapped
        return mapped[:, 0] if self.n_views > 1 else mapped

    @property
    def views(self) -> npt.NDArray[Any]:
        """The features of all K views of each image, (N, K, D); the plain one is the first.

        They are mapped, as `features` are.
        """
        mapped = self._mapped
        return mapped if self.n_views > 1 else mapped[:, None]

    @cached_property
    def _mapped(self) -> npt.NDArray[Any]:
        extent = self._columns["features"]
        with os.fdopen(os.dup(self._file.fd), "rb") as file:
            return np.memmap(file, extent.dtype, "r", extent.offset, extent.shape)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64] | None:
        """The labels, (N,) int64; None if the images have none."""
        return self._read("labels", 0, self.n_rows) if "labels" in self._columns else None

    @cached_property
    def image_sha256(self) -> npt.NDArray[np.uint8] | None:
        """SHA-256 of each image, (N, 32) uint8; None if the cache does not hold them.

        Of an image file, it is that of the file's bytes, and zeros if it could not be read. Of an
        image from Python, it is that of its (H, W, 3) uint8 pixels, without their size. Equal rows
        are exact duplicates, unless they are zeros or of images that differ in size.
        """
        if "image_sha256" not in self._columns:
            return None
        return self._read("image_sha256", 0, self.n_rows)

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which rows hold features, (N,); the others' images could not be read."""
        return self._read("valid", 0, self.n_rows).astype(np.bool_)

    @cached_property
    def ids(self) -> Sequence[str]:
        """N ids: the path within the dataset, or the index."""
        found = self._read("ids", 0, self.n_rows)
        return [raw.decode(errors="surrogateescape") for raw in found]

    @cached_property
    def failures(self) -> Mapping[str, str]:
        """The reason, by id, for every row that is not valid."""
        rows = [int(i) for i in np.flatnonzero(~self.valid)]
        if "reason" not in self._columns:
            return {self.ids[i]: "not readable" for i in rows}
        reasons = self._read("reason", 0, self.n_rows)
        return {self.ids[i]: reasons[i].decode(errors="replace") for i in rows}

    @property
    def columns(self) -> Mapping[str, Extent]:
        """The columns of the file that belong to this split, by name."""
        return self._columns

    @property
    def plain_features(self) -> Extent:
        """Type and shape of `features`; of several views, the place is that of all of them."""
        extent = self._columns["features"]
        if self.n_views == 1:
            return extent
        return extent._replace(shape=(self.n_rows, *extent.shape[2:]))

    def arrays(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None]:
        """Give features and labels of the rows that hold features, as scikit-learn takes them.

        Of several views of each image, they are those of the plain one.

        Example:
            >>> X, y = open_cache(result.path)["train"].arrays()  # doctest: +SKIP

        Returns:
            (M, D) features, and (M,) labels or None if the images have none. The features are
            mapped from the file where all N rows are valid, and copied without the others if not;
            both are read-only.
        """
        features = self.features.reshape(self.n_rows, -1)
        if self.valid.all():
            return features, self.labels
        labels = None if self.labels is None else self.labels[self.valid]
        return features[self.valid], labels

    def column(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the rows start..stop of one of `columns`, as they are stored."""
        return self._read(name, start, stop)

    def read(
        self, start: int, stop: int, *, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Read the features of the rows start..stop; of several views, those of the plain one.

        Args:
            start: The first row.
            stop: The row behind the last.
            out: Contiguous, of their shape and type; None makes it.

        Raises:
            CorruptError: If the file has become shorter.
            StorageError: If the disk fails.
        """
        if self.n_views == 1:
            return self._read("features", start, stop, out)
        plain = self.plain_features
        if out is None:
            out = np.empty((stop - start, *plain.shape[1:]), plain.dtype)
        n_rows = max(1, _BYTES_AT_ONCE // (plain.row_nbytes * self.n_views))
        for first in range(start, stop, n_rows):
            last = min(first + n_rows, stop)
            out[first - start : last - start] = self._read("features", first, last)[:, 0]
        return out

    def read_views(
        self, start: int, stop: int, *, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Read single views, which are numbered through all rows: view v of row i is i * K + v.

        Args:
            start: The first one.
            stop: The one behind the last.
            out: Contiguous, (stop - start, D), of their type; None makes it.

        Raises:
            CorruptError: If the file has become shorter.
            StorageError: If the disk fails.
        """
        extent = self._columns["features"]
        if self.n_views > 1:
            extent = extent._replace(shape=(self.n_rows * self.n_views, *extent.shape[2:]))
        return self._read_of(extent, start, stop, out)

    def _read(
        self, column: str, start: int, stop: int, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        return self._read_of(self._columns[column], start, stop, out)

    def _read_of(
        self, extent: Extent, start: int, stop: int, out: npt.NDArray[Any] | None
    ) -> npt.NDArray[Any]:
        if out is None:
            out = np.empty((stop - start, *extent.shape[1:]), extent.dtype)
        with named_read_failures(self._file.path):
            read_into(self._file.fd, out, extent.rows(start, stop)[0])
        return out
