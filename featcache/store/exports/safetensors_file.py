"""Write a table as .safetensors: one tensor a column, streamed; texts as rows of UTF-8 bytes.

The format is eight bytes of length, JSON, and the tensors' bytes one after the other:
https://huggingface.co/docs/safetensors/index#format. The package's own writer takes whole tensors
in memory.
"""

from __future__ import annotations

import json
import math
from typing import BinaryIO

import numpy as np

from featcache.store.exports.table import ABOUT, NAMES, Table

_DTYPES = {"<f4": "F32", "<f2": "F16", "<i8": "I64", "|u1": "U8"}


def write_safetensors(table: Table, file: BinaryIO) -> None:
    """Write `features`, `label`, `valid`, `image_sha256` as numbers.

    `id`, `split` and `reason` are (N, bytes) uint8, UTF-8 filled up with zeros. The metadata holds
    what the cache says of itself, under `featcache`, as JSON.
    """
    head: dict[str, object] = {"__metadata__": {ABOUT: table.about_json.decode()}}
    end = 0
    names = sorted((n for n in table.names if n != "class_name"), key=_numbers_first)
    for name in names:
        extent = table.extent(name)
        dtype, shape = extent.dtype, extent.shape
        if dtype.startswith("|S"):
            dtype, shape = "|u1", (*shape, np.dtype(dtype).itemsize)
        start, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        head[NAMES[name]] = {
            "dtype": "BOOL" if name == "valid" else _DTYPES[dtype],
            "shape": shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        for part in table.parts(name):
            file.write(np.ascontiguousarray(part).tobytes())


def _numbers_first(name: str) -> int:
    """Order the columns so that each begins at a multiple of its type's size."""
    return {"labels": 0, "features": 1}.get(name, 2)
