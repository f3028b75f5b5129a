"""The first reading of a foreign file: check all of it, keep labels and ids, hash the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from featcache.errors import NonFiniteError, UsageError, counted
from featcache.store import SplitRows, require_space, rows_per_block
from featcache.store.imports.labels import read_labels
from featcache.store.imports.sandbox import KEPT, Column, reading

Keys = tuple[str, str | None, str | None]
"""Of a split: where its features, labels and ids are; None where it lacks them."""

_LABEL_BYTES = 8
_ID_BYTES = 120  # a str of ten letters, and its places in a list and a set
_BLOCKS_HELD = 3  # the block to be written, its rows as they come, and both joined
_IDS_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class ScannedSplit:
    """What the first reading found of a split.

    Attributes:
        labels: (N,) int64; None if there are none.
        ids: N ids.
        n_features: D.
        features_sha256: Of its features in the storage type.
    """

    labels: npt.NDArray[np.int64] | None
    ids: Sequence[str]
    n_features: int
    features_sha256: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def rows(self) -> SplitRows:
        """What a writer is told of it."""
        return SplitRows(self.labels, self.ids)


class RowNumbers(Sequence[str]):
    """Ids of rows without ids: their numbers, made when they are asked for."""

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._numbers)

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> RowNumbers: ...

    def __getitem__(self, i: int | slice) -> str | RowNumbers:
        if isinstance(i, slice):
            return RowNumbers(self._numbers[i])
        return str(self._numbers[i])


def scan(
    source: Path, keys: Mapping[str, Keys], *, store_dtype: str, folder: Path
) -> dict[str, ScannedSplit]:
    """Read a file whole, once.

    Shapes are compared, and the memory and the space that they ask for are there, before anything
    is built from them.

    Args:
        source: The file.
        keys: By split.
        store_dtype: "float32" or "float16".
        folder: Where the cache will be.
    """
    asked = []
    for features, labels, ids in keys.values():
        asked += [
            (kind, key) for kind, key in (("labels", labels), ("ids", ids)) if key is not None
        ]
        asked += [("features", features)]
    splits: dict[str, ScannedSplit] = {}
    with reading(source, asked) as columns:
        by_split = _by_split(keys, columns)
        _require_shapes(source, by_split)
        for of_it in by_split.values():
            _require_memory(of_it)
        require_space(folder, nbytes=sum(_nbytes(c, store_dtype) for c in by_split.values()))
        for name, of_it in by_split.items():
            labels_found = read_labels(of_it["labels"], name) if "labels" in of_it else None
            ids_found: Sequence[str] = RowNumbers(range(of_it["features"].n_rows))
            if "ids" in of_it:
                ids_found = _read_ids(of_it["ids"], name)
            sha = hashlib.sha256()
            for part in stored_rows(of_it["features"], store_dtype, name):
                sha.update(part.data.cast("B"))
            splits[name] = ScannedSplit(
                labels_found, ids_found, _n_features(of_it), sha.hexdigest()
            )
    return splits


def _by_split(keys: Mapping[str, Keys], columns: Sequence[Column]) -> dict[str, dict[str, Column]]:
    waiting = iter(columns)
    return {
        name: {
            kind: next(waiting)
            for kind in ("labels", "ids", "features")
            if {"labels": labels, "ids": ids, "features": features}[kind] is not None
        }
        for name, (features, labels, ids) in keys.items()
    }


def _n_features(of_it: Mapping[str, Column]) -> int:
    return int(np.prod(of_it["features"].shape[1:], dtype=np.int64))


def _nbytes(of_it: Mapping[str, Column], store_dtype: str) -> int:
    return of_it["features"].n_rows * _n_features(of_it) * np.dtype(store_dtype).itemsize


def _require_shapes(source: Path, by_split: Mapping[str, Mapping[str, Column]]) -> None:
    for split, of_it in by_split.items():
        features = of_it["features"].shape
        n_rows = of_it["labels"].n_rows if "labels" in of_it else features[0]
        labels = of_it["labels"].shape if "labels" in of_it else (n_rows,)
        if labels not in ((n_rows,), (n_rows, 1), (1, n_rows)):
            raise UsageError(f"Labels of {split} have shape {labels}, expected (N,). {KEPT}")
        if len(features) < 2:
            raise UsageError(f"Features of {split} have shape {features}, not (N, D). {KEPT}")
        counts = {kind: column.n_rows for kind, column in of_it.items()}
        if len(set(counts.values())) > 1:
            n_ids = f" and {counted(counts['ids'], 'id')}" if "ids" in counts else ""
            raise UsageError(
                f"{split} has {counted(features[0], 'row')} of features, "
                f"{counted(n_rows, 'label')}{n_ids}; expected as many of each. "
                f"{KEPT}{_transposed(features, n_rows)}"
            )
    if len({_n_features(of_it) for of_it in by_split.values()}) > 1:
        raise UsageError(f"{source}: the splits have rows of different lengths. {KEPT}")


def _transposed(features: tuple[int, ...], n_labels: int) -> str:
    if len(features) != 2 or features[1] != n_labels:
        return ""
    return (
        f" Are the features transposed? Their shape is {features}, as MATLAB writes an array of "
        f"{features[::-1]}: store it transposed, in MATLAB as x', in Python as x.T."
    )


def _require_memory(of_it: Mapping[str, Column]) -> None:
    """Refuse a file whose labels, ids and blocks of rows take far more memory than its size."""
    features = of_it["features"]
    n_rows, row_nbytes = features.n_rows, 4 * _n_features(of_it)
    block = min(n_rows, rows_per_block(row_nbytes, 1)) * row_nbytes
    each = _LABEL_BYTES + (_ID_BYTES if "ids" in of_it else 0)
    features.hold(n_rows * each + _BLOCKS_HELD * block)


def _read_ids(column: Column, split: str) -> list[str]:
    ids: list[str] = []
    known: set[str] = set()
    for part in column.ids():
        for text in part:
            if not text or "\0" in text or text in known:
                what = "is not unique" if text in known else "is empty, or holds NUL"
                raise UsageError(f"The id of row {len(ids)} of {split}, {text!r}, {what}. {KEPT}")
            known.add(text)
            ids.append(text)
    return ids


def stored_rows(column: Column, store_dtype: str, split: str) -> Iterator[npt.NDArray[Any]]:
    """Yield (n, D) parts of a split in the storage type.

    Raises:
        NonFiniteError: If it cannot hold them.
    """
    start = 0
    for part in column.parts():
        with np.errstate(over="ignore"):
            stored = part.astype(np.dtype(store_dtype).newbyteorder("<"))
        wrong = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if len(wrong):
            raise NonFiniteError(
                f"Row {start + wrong[0]} of {split} holds NaN, infinity, or a number beyond "
                f"{store_dtype}. {KEPT}"
            )
        start += len(part)
        yield stored


def content_digest(splits: Mapping[str, ScannedSplit], names: Sequence[str]) -> str:
    """Hash all that was taken: class names, and for each split ids, labels and stored features."""
    sha = hashlib.sha256(repr(tuple(names)).encode())

    def add(part: bytes | memoryview) -> None:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)

    for name, split in splits.items():
        add(name.encode())
        add(b"no labels" if split.labels is None else split.labels.data.cast("B"))
        _add_list(sha.update, split.ids)
        add(f"{split.n_features} {split.features_sha256}".encode())
    return sha.hexdigest()


def _add_list(update: Callable[[bytes], object], ids: Sequence[str]) -> None:
    """Hash `repr(list(ids))` and its length, without ever holding the whole."""

    def texts() -> Iterator[bytes]:
        yield b"["
        for start in range(0, len(ids), _IDS_AT_ONCE):
            part = repr(list(ids[start : start + _IDS_AT_ONCE]))[1:-1]
            yield (", " if start else "").encode() + part.encode()
        yield b"]"

    update(sum(map(len, texts())).to_bytes(8, "little"))
    for text in texts():
        update(text)
