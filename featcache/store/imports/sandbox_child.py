"""Read a foreign file in a child process that can open nothing else; it sends the rows.

The parent runs this file as a script, with the foreign file as stdin. It imports nothing of
featcache. Frames: 4 bytes of kind, 4 of length (little-endian), the payload. HEAD is JSON of
[shape, dtype] for each column; ROWS are bytes, or JSON for ids; FAIL is JSON; DONE is the end.
"""

from __future__ import annotations

import codecs
import importlib
import json
import math
import os
import resource
import struct
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5t, h5z

FRAME = struct.Struct("<4sI")
FRAME_LIMIT = 16 << 20
ID_LIMIT = 1024
_MEMORY = 2 << 30
_LARGEST_READ = 512 << 20
_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_SZIP, 32000}
_CLASSES = {
    "features": {h5t.FLOAT},
    "labels": {h5t.INTEGER, h5t.FLOAT, h5t.ENUM},
    "ids": {h5t.STRING},
}
_NUMBERS = {h5t.FLOAT, h5t.INTEGER, h5t.ENUM, h5t.STRING}


class RefusedError(Exception):
    """The file is not taken: kind is "usage", "unsafe" or "corrupt"."""

    def __init__(self, kind: str, text: str, *, known: list[str] | None = None) -> None:
        super().__init__(text)
        self.report = {"kind": kind, "text": text, "known": known or []}


def main() -> None:
    """Send the columns that argv asks for: JSON of [kind, key] pairs, CPU seconds, the format."""
    format = sys.argv[3]
    if format == "parquet":
        for module in ("pyarrow.parquet", "pyarrow.compute"):  # hundreds of files
            importlib.import_module(module)
    limit_itself(cpu_s=int(sys.argv[2]))
    try:
        if format != "hdf5":
            _send_table(format, json.loads(sys.argv[1]))
            os._exit(0)
        with h5py.File("/dev/fd/0", "r", locking=False) as h5:
            codecs.lookup("ascii")  # a module, which bytes of fixed length need
            # From here on it can open no other file, and no socket.
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
            _send_all(h5, json.loads(sys.argv[1]))
    except RefusedError as err:
        _send(b"FAIL", json.dumps(err.report).encode())
    except MemoryError:
        _fail("unsafe", "it needs more memory than the 2 GiB it is allowed")
    except Exception as err:
        if "file signature not found" in str(err):
            _fail(
                "usage",
                "it is not an HDF5 file (no HDF5 signature), nor Parquet, npz or .safetensors",
            )
        else:
            _fail("corrupt", f"{type(err).__name__}: {str(err)[:500]}")
    os._exit(0)  # closing a damaged file may crash


def _send_table(format: str, asked: list[list[str]]) -> None:
    sys.path.append(str(Path(__file__).parent))
    tables = importlib.import_module("sandbox_tables")
    try:
        columns = tables.open_columns(format, asked)
        # From here on it can open no other file, and no socket.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        kinds = [kind for kind, _ in asked]
        head = [
            [[c.shape[0]], "ids"] if kind in tables.TEXTS else [list(c.shape), c.dtype]
            for kind, c in zip(kinds, columns, strict=True)
        ]
        _send(b"HEAD", json.dumps(head).encode())
        for kind, column in zip(kinds, columns, strict=True):
            if kind in tables.TEXTS:
                for part in tables.texts(column):
                    _send_texts(part)
            else:
                for content in column.parts():
                    _send_bytes(memoryview(content))
        _send(b"DONE", b"")
    except tables.TableError as err:
        raise RefusedError(err.kind, str(err), known=err.known) from err


def limit_itself(*, cpu_s: int) -> None:
    """Give up memory beyond 2 GiB, writing of files, cores, processes and nearly all handles."""
    for kind, limit in (
        (resource.RLIMIT_AS, _address_space() + _MEMORY),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        hard = resource.getrlimit(kind)[1]
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (least, least))


def _address_space() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0


def _send_all(h5: h5py.File, asked: list[list[str]]) -> None:
    columns = [(kind, _dataset(h5, kind, key)) for kind, key in asked]
    head = [[list(d.shape), d.dtype.str if kind != "ids" else "ids"] for kind, d in columns]
    _send(b"HEAD", json.dumps(head).encode())
    for kind, dataset in columns:
        _send_ids(dataset) if kind == "ids" else _send_rows(dataset)
    _send(b"DONE", b"")


def _dataset(h5: h5py.File, kind: str, key: str) -> h5py.Dataset:
    """Find a dataset by hard links alone, and refuse what is not plain numbers or text."""
    item: Any = h5
    for part in filter(None, key.split("/")):
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if link is None:
            raise RefusedError("usage", f"it has no dataset {key!r}", known=_names(h5))
        if not isinstance(link, h5py.HardLink):
            raise RefusedError("unsafe", f"{key!r} is a link to elsewhere ({type(link).__name__})")
        item = item[part]
    if not isinstance(item, h5py.Dataset):
        raise RefusedError("usage", f"{key!r} is not a dataset", known=_names(h5))
    _require_plain(item, kind, key)
    _require_written(item, key)
    return item


def _require_plain(dataset: h5py.Dataset, kind: str, key: str) -> None:
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5d.VIRTUAL:
        raise RefusedError("unsafe", f"{key!r} is a virtual dataset, made of other files")
    if plist.get_external_count():
        raise RefusedError("unsafe", f"{key!r} keeps its bytes in other files")
    for i in range(plist.get_nfilters()):
        code = plist.get_filter(i)[0]
        if code not in _FILTERS:
            raise RefusedError("unsafe", f"{key!r} has filter {code}, which is not a known one")
    found = dataset.id.get_type().get_class()
    if found not in _NUMBERS:
        raise RefusedError("unsafe", f"{key!r} holds neither numbers nor text (class {found})")
    if kind == "labels" and found == h5t.STRING:
        raise RefusedError(
            "usage",
            f"{key!r} holds text, but labels must be whole numbers from 0; their names go into "
            f"--class-names",
        )
    if found not in _CLASSES[kind] or (dataset.dtype.itemsize > 8 and kind != "ids"):
        raise RefusedError("usage", f"{key!r} is {dataset.dtype}, which cannot be {kind}")
    shape = dataset.shape
    if not shape or not math.prod(shape):
        raise RefusedError("usage", f"{key!r} is empty (shape {shape})")
    if kind == "ids" and len(shape) != 1:
        raise RefusedError("usage", f"{key!r} has shape {shape}, expected one id a row")


def _require_written(dataset: h5py.Dataset, key: str) -> None:
    """Refuse rows that were never written: HDF5 reads them as zeros without a word."""
    nbytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    if dataset.chunks is None:
        if dataset.id.get_storage_size() < nbytes:
            raise RefusedError("corrupt", f"the rows of {key!r} were never written")
        return
    if math.prod(dataset.chunks) * dataset.dtype.itemsize > _LARGEST_READ:
        raise RefusedError("unsafe", f"{key!r} has chunks of more than 512 MiB")
    sides = zip(dataset.shape, dataset.chunks, strict=True)
    expected, found = math.prod(-(-n // c) for n, c in sides), dataset.id.get_num_chunks()
    if found != expected:
        raise RefusedError("corrupt", f"{key!r} has {found} of its {expected} chunks")


def _names(h5: h5py.File) -> list[str]:
    names: list[str] = []

    def add(name: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset):
            names.append(name)
        return True if len(names) >= 100 else None

    h5.visititems(add)
    return names


def _send_rows(dataset: h5py.Dataset) -> None:
    row_nbytes = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
    if row_nbytes > _LARGEST_READ:
        raise RefusedError("unsafe", f"one row has {row_nbytes} bytes")
    # Whole chunks at a time, so that none is inflated twice.
    chunk = dataset.chunks[0] if dataset.chunks else 1
    n_rows = max(
        1, min(max(chunk, (4 << 20) // row_nbytes // chunk * chunk), _LARGEST_READ // row_nbytes)
    )
    for start in range(0, len(dataset), n_rows):
        rows: Any = np.ascontiguousarray(dataset[start : start + n_rows])
        _send_bytes(memoryview(rows).cast("B"))


def _send_ids(dataset: h5py.Dataset) -> None:
    for start in range(0, len(dataset), 1024):
        raw = [bytes(text) for text in dataset[start : start + 1024]]
        _send_texts([text.decode(errors="surrogateescape") for text in raw])


def _send_bytes(content: memoryview) -> None:
    for i in range(0, len(content), FRAME_LIMIT):
        _send(b"ROWS", content[i : i + FRAME_LIMIT])


def _send_texts(texts: list[str]) -> None:
    for start in range(0, len(texts), 1024):
        part = texts[start : start + 1024]
        if max(len(text.encode(errors="surrogatepass")) for text in part) > ID_LIMIT:
            raise RefusedError("usage", f"an id is longer than {ID_LIMIT} bytes")
        _send(b"ROWS", json.dumps(part).encode())


def _fail(kind: str, text: str) -> None:
    _send(b"FAIL", json.dumps({"kind": kind, "text": text, "known": []}).encode())


def _send(kind: bytes, payload: bytes | memoryview) -> None:
    sys.stdout.buffer.write(FRAME.pack(kind, len(payload)))
    sys.stdout.buffer.write(payload)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
