"""Write a table as .npz: one array a column, streamed, so that no column is held in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from featcache.store.exports.table import ABOUT, NAMES, Table

_NO_TIME = (1980, 1, 1, 0, 0, 0)  # so that the same cache gives the same bytes


def write_npz(table: Table, file: BinaryIO) -> None:
    """Write `id`, `split`, `label`, `class_name`, `valid`, `reason`, `image_sha256`, `features`.

    Texts are UTF-8 in arrays of bytes. `featcache` holds what the cache says of itself, as JSON.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in table.names:
            extent = table.extent(name)
            dtype = np.dtype("|b1" if name == "valid" else extent.dtype)
            parts = (part.astype(dtype, copy=False) for part in table.parts(name))
            _write(archive, NAMES[name], dtype, extent.shape, parts)
        about = np.frombuffer(table.about_json, np.uint8)
        _write(archive, ABOUT, about.dtype, about.shape, [about])


def _write(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    parts: Iterable[npt.NDArray[Any]],
) -> None:
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _NO_TIME), "w", force_zip64=True) as member:
        head = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, head)
        for part in parts:
            member.write(np.ascontiguousarray(part).tobytes())
