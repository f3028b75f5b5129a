"""Of which kind a foreign file is, by its first bytes."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.store.exports.parquet_file import require_pyarrow
from featcache.store.reader import opened_readonly

HDF5 = "hdf5"
_STARTS = {b"PK\x03\x04": "npz", b"PAR1": "parquet"}


def format_of(path: Path) -> str:
    """Tell "npz", "parquet", "safetensors" or "hdf5"; the last is also what is none of these.

    Raises:
        UsageError: If it needs a package that is not installed.
        UnsafeFileError: If it is not a regular file.
    """
    with opened_readonly(path) as fd:
        start = os.pread(fd, 4, 0)
    found = _STARTS.get(start, HDF5)
    if found == HDF5 and path.suffix.lower() == ".safetensors":
        found = "safetensors"
    if found == "parquet":
        require_pyarrow()
    return found
