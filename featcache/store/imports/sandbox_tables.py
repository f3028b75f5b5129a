"""The part of the child that reads npz, safetensors and Parquet files; it runs no code of a file.

It is loaded by `sandbox_child`, which lies beside it, and imports nothing of featcache.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

TEXTS = frozenset({"ids", "split", "reason"})
_ABOUT = "featcache"
_NUMBERS = {"features": "fiu", "labels": "fiub", "valid": "bu", "image_sha256": "u", "about": "u"}
_CHUNK = 4 << 20
_MOST_HEADER = 100 << 20  # safetensors' own limit
_SAFETENSORS = {
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "|b1", "U8": "|u1", "I8": "|i1"},
    **{f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "UI" for bits in (16, 32, 64)},
}


class TableError(Exception):
    """The file is not taken: kind is "usage", "unsafe" or "corrupt"."""

    def __init__(self, kind: str, text: str, known: list[str] | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.known = known or []


class Stored(NamedTuple):
    """One column as it is in the file.

    Attributes:
        shape: Of all of it; (N, bytes) for texts that come as rows of bytes.
        dtype: NumPy's name; "texts" where `parts` yields lists of str.
        parts: Yields it from its beginning: bytes of whole items, or lists.
    """

    shape: tuple[int, ...]
    dtype: str
    parts: Callable[[], Iterator[Any]]


def open_columns(format: str, asked: list[list[str]]) -> list[Stored]:
    """Find the columns that are asked for, [kind, key] each, in the file on stdin."""
    find = {"npz": _npz, "safetensors": _safetensors, "parquet": _parquet}[format]()
    found = [find(kind, key) for kind, key in asked]
    for (kind, key), column in zip(asked, found, strict=True):
        _require_kind(kind, key, column)
    return found


def texts(column: Stored) -> Iterator[list[str]]:
    """Yield the texts of a column in lists."""
    for part in column.parts():
        if column.dtype == "texts":
            yield part
            continue
        rows: Any = np.frombuffer(part, column.dtype)
        if column.dtype == "|u1":
            rows = rows.view(f"|S{column.shape[1]}")
        if rows.dtype.kind == "U":
            yield rows.tolist()
        elif rows.dtype.kind == "S":
            yield [raw.decode(errors="surrogateescape") for raw in rows.tolist()]
        else:
            yield [str(number) for number in rows.tolist()]


def _require_kind(kind: str, key: str, column: Stored) -> None:
    if kind in TEXTS:
        is_text = column.dtype == "texts" or np.dtype(column.dtype).kind in "SUiu"
        is_bytes = column.dtype == "|u1" and len(column.shape) == 2
        if not is_text or not (len(column.shape) == 1 or is_bytes):
            raise TableError(
                "usage", f"{key!r} is {column.dtype} {column.shape}, not one text a row"
            )
    elif column.dtype == "texts" or np.dtype(column.dtype).kind not in _NUMBERS[kind]:
        names = "; their names go into --class-names" if kind == "labels" else ""
        raise TableError("usage", f"{key!r} is {column.dtype}, which cannot be {kind}{names}")
    if not column.shape or not math.prod(column.shape):
        raise TableError("usage", f"{key!r} is empty (shape {column.shape})")


def _npz() -> Callable[[str, str], Stored]:
    archive = zipfile.ZipFile(os.fdopen(os.dup(0), "rb"))

    def find(kind: str, key: str) -> Stored:
        name = _ABOUT if kind == "about" else key
        known = [n.removesuffix(".npy") for n in archive.namelist()]
        if name not in known:
            raise TableError("usage", f"it has no array {name!r}", known[:100])
        with archive.open(f"{name}.npy") as member:
            shape, dtype = _header(member, name)

        def parts() -> Iterator[bytes]:
            with archive.open(f"{name}.npy") as member:
                _header(member, name)
                yield from _pieces(member.read, shape, dtype, name)

        return Stored(shape, dtype.str, parts)

    return find


def _header(member: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise TableError("usage", f"{name!r} is of version {version} of NumPy's format")
    shape, is_fortran, dtype = read(member)
    if dtype.hasobject or dtype.kind not in "fiubSU":
        raise TableError("unsafe", f"{name!r} holds neither numbers nor text ({dtype})")
    if is_fortran and len(shape) > 1:
        raise TableError("usage", f"{name!r} is stored by columns: save numpy.ascontiguousarray")
    return tuple(map(int, shape)), dtype


def _pieces(
    read: Callable[[int], bytes], shape: tuple[int, ...], dtype: np.dtype[Any], name: str
) -> Iterator[bytes]:
    """Yield all bytes of an array in parts of whole rows."""
    row = math.prod(shape[1:]) * dtype.itemsize
    left, at_once = math.prod(shape) * dtype.itemsize, max(1, _CHUNK // row) * row
    if row > _CHUNK * 128:
        raise TableError("unsafe", f"one row of {name!r} has {row} bytes")
    while left:
        part = read(min(left, at_once))
        if len(part) != min(left, at_once):
            raise TableError("corrupt", f"{name!r} ends early")
        left -= len(part)
        yield part


def _safetensors() -> Callable[[str, str], Stored]:
    size = os.fstat(0).st_size
    length = int.from_bytes(os.pread(0, 8, 0), "little")
    if length > min(_MOST_HEADER, size - 8):
        raise TableError("corrupt", "its header is longer than the file")
    head = json.loads(os.pread(0, length, 8))
    metadata = head.pop("__metadata__", {})

    def find(kind: str, key: str) -> Stored:
        if kind == "about":
            if _ABOUT not in metadata:
                raise TableError("usage", "it says nothing of a cache")
            about = str(metadata[_ABOUT]).encode()
            return Stored((len(about),), "|u1", lambda: iter([about]))
        if key not in head:
            raise TableError("usage", f"it has no tensor {key!r}", list(map(str, head))[:100])
        entry = head[key]
        start, stop = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if entry["dtype"] not in _SAFETENSORS:
            raise TableError("usage", f"{key!r} is {entry['dtype']}, which NumPy does not have")
        dtype = np.dtype(_SAFETENSORS[entry["dtype"]])
        is_sound = all(type(n) is int and n >= 0 for n in (*shape, start, stop))
        if not is_sound or stop - start != math.prod(shape) * dtype.itemsize:
            raise TableError("corrupt", f"{key!r} has other bytes than its shape says")

        def parts() -> Iterator[bytes]:
            at = 8 + length + start

            def read(nbytes: int) -> bytes:
                nonlocal at
                part = os.pread(0, nbytes, at)
                at += len(part)
                return part

            return _pieces(read, shape, dtype, key)

        return Stored(shape, dtype.str, parts)

    return find


def _parquet() -> Callable[[str, str], Stored]:
    from pyarrow import OSFile, parquet, types

    file = parquet.ParquetFile(OSFile("/dev/fd/0"), pre_buffer=False)
    schema, n_rows = file.schema_arrow, file.metadata.num_rows
    n_at_once = 1024

    def batches(key: str) -> Iterator[Any]:
        for batch in file.iter_batches(n_at_once, columns=[key], use_threads=False):
            if batch.num_rows:
                if batch.column(0).null_count:
                    raise TableError("usage", f"{key!r} has rows without a value")
                yield batch.column(0)

    def find(kind: str, key: str) -> Stored:
        if kind == "about":
            about = (schema.metadata or {}).get(_ABOUT.encode())
            if about is None:
                raise TableError("usage", "it says nothing of a cache")
            return Stored((len(about),), "|u1", lambda: iter([about]))
        if key not in schema.names:
            raise TableError("usage", f"it has no column {key!r}", schema.names[:100])
        type_ = schema.field(key).type
        if types.is_dictionary(type_):
            type_ = type_.value_type
        if types.is_fixed_size_binary(type_):
            width = type_.byte_width
            return Stored((n_rows, width), "|u1", lambda: map(_joined, batches(key)))
        if types.is_fixed_size_list(type_):
            return _lists(key, n_rows, type_.list_size, type_, lambda: batches(key))
        if types.is_list(type_) or types.is_large_list(type_):
            first = next(batches(key), None)
            length = 0 if first is None else len(first[0])
            return _lists(key, n_rows, length, type_, lambda: batches(key))
        if any(is_it(type_) for is_it in (types.is_integer, types.is_floating, types.is_boolean)):
            dtype = np.dtype(type_.to_pandas_dtype())
            return Stored((n_rows,), dtype.str, lambda: map(_numbers, batches(key)))
        if any(is_it(type_) for is_it in (types.is_string, types.is_large_string, types.is_binary)):
            return Stored((n_rows,), "texts", lambda: map(_texts, batches(key)))
        raise TableError("usage", f"{key!r} is {type_}, which is neither numbers nor text")

    return find


def _lists(
    key: str, n_rows: int, length: int, type_: Any, batches: Callable[[], Iterator[Any]]
) -> Stored:
    try:
        dtype = np.dtype(type_.value_type.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        dtype = np.dtype(object)
    if dtype.kind not in "fiub":
        raise TableError("usage", f"{key!r} is {type_}, not lists of numbers")

    def parts() -> Iterator[bytes]:
        for batch in batches():
            flat = batch.flatten()
            if len(flat) != len(batch) * length or flat.null_count:
                raise TableError("usage", f"the rows of {key!r} have different lengths")
            yield _numbers(flat)

    return Stored((n_rows, length), dtype.str, parts)


def _numbers(array: Any) -> bytes:
    flat = np.ascontiguousarray(array.to_numpy(zero_copy_only=False))
    return flat.tobytes()


def _texts(array: Any) -> list[str]:
    values = array.to_pylist()
    return [v.decode(errors="surrogateescape") if isinstance(v, bytes) else str(v) for v in values]


def _joined(array: Any) -> bytes:
    return b"".join(array.to_pylist())
