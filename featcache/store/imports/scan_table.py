"""The first reading of a foreign table: check all of it, and tell which rows are of which split."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.errors import UsageError
from featcache.store import require_space, rows_per_block
from featcache.store.imports.labels import read_labels
from featcache.store.imports.sandbox import KEPT, Column, reading
from featcache.store.imports.scan import ScannedSplit, stored_rows

_FIRST = ("train", "val", "test")
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_MOST_SPLITS = 64
_BYTES_A_ROW = 8 + 120 + 8 + 60  # label, id, place, name of the split
_BLOCKS_HELD = 3


class TableKeys(NamedTuple):
    """Columns of a table by what they hold; None where it lacks them."""

    features: str
    labels: str | None
    ids: str | None
    split: str | None
    valid: str | None = None

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What a child is asked for, the features last."""
        before = [("labels", self.labels), ("ids", self.ids), ("split", self.split)]
        before += [("valid", self.valid)]
        return [(kind, key) for kind, key in before if key is not None] + [
            ("features", self.features)
        ]


@dataclass(frozen=True, eq=False)
class ScannedTable:
    """What the first reading found.

    Attributes:
        splits: By name, "train", "val" and "test" before others.
        places: (N,) which of `splits` each row of the table is of; -1 for none.
    """

    splits: Mapping[str, ScannedSplit]
    places: npt.NDArray[np.int64]

    def routed(self, column: Column, store_dtype: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield (split, rows in the storage type), in the table's order within each split."""
        yield from _routed(column, store_dtype, list(self.splits), self.places)


def scan_table(
    source: Path, keys: TableKeys, *, format: str, store_dtype: str, folder: Path
) -> ScannedTable:
    """Read a table whole, once; the arguments are those of `scan`."""
    with reading(source, keys.asked, format=format) as columns:
        of_it = dict(zip((kind for kind, _ in keys.asked), columns, strict=True))
        n_rows, n_features = _require_shapes(source, of_it)
        block_nbytes = min(n_rows, rows_per_block(4 * n_features, 1)) * 4 * n_features
        of_it["features"].hold(n_rows * _BYTES_A_ROW + _BLOCKS_HELD * block_nbytes)
        nbytes = n_rows * n_features * np.dtype(store_dtype).itemsize
        require_space(folder, nbytes=nbytes)
        labels = read_labels(of_it["labels"], "the table") if keys.labels else None
        ids = _texts(of_it["ids"]) if keys.ids else [str(i) for i in range(n_rows)]
        names = _texts(of_it["split"]) if keys.split else ["train"] * n_rows
        order, places = _placed(names)
        if keys.valid:
            valid = np.concatenate([part.ravel() for part in of_it["valid"].parts()])
            places[valid == 0] = -1
        rows_of = {name: np.flatnonzero(places == i) for i, name in enumerate(order)}
        shas = {name: hashlib.sha256() for name in order}
        for name, rows in _routed(of_it["features"], store_dtype, order, places):
            shas[name].update(rows.data.cast("B"))
    splits = {
        name: ScannedSplit(
            None if labels is None else labels[rows],
            _unique([ids[int(i)] for i in rows], name),
            n_features,
            shas[name].hexdigest(),
        )
        for name, rows in rows_of.items()
        if len(rows)
    }
    if not splits:
        raise UsageError(f"No row of {source} holds features. {KEPT}")
    kept = [i for i, name in enumerate(order) if name in splits]
    renumbered = np.full(len(order) + 1, -1)
    renumbered[kept] = range(len(kept))
    return ScannedTable(splits, renumbered[places])


def _routed(
    column: Column, store_dtype: str, order: Sequence[str], places: npt.NDArray[np.int64]
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    start = 0
    for part in stored_rows(column, store_dtype, "the table"):
        of_part = places[start : start + len(part)]
        for i in np.unique(of_part[of_part >= 0]):
            yield order[i], np.ascontiguousarray(part[of_part == i])
        start += len(part)


def _require_shapes(source: Path, of_it: Mapping[str, Column]) -> tuple[int, int]:
    shape = of_it["features"].shape
    if len(shape) < 2:
        raise UsageError(f"Features of {source} have shape {shape}, not (N, D). {KEPT}")
    for kind, column in of_it.items():
        is_row = column.shape in ((column.n_rows,), (column.n_rows, 1), (1, column.n_rows))
        if column.n_rows != shape[0] or (kind != "features" and not is_row):
            raise UsageError(
                f"{source} has features of shape {shape}, but its {kind} have {column.shape}; "
                f"expected one for each row. {KEPT}"
            )
    return shape[0], int(np.prod(shape[1:], dtype=np.int64))


def _texts(column: Column) -> list[str]:
    return [text for part in column.ids() for text in part]


def _placed(names: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Order the splits, and say of which each row is."""
    found = list(Counter(names))
    wrong = [name for name in found if not _SPLIT_NAME.fullmatch(name)]
    if wrong or len(found) > _MOST_SPLITS:
        example = f"e.g. {wrong[0][:40]!r}" if wrong else f"{len(found)} of them"
        raise UsageError(
            f"The split column must hold names like train, val and test, at most {_MOST_SPLITS}, "
            f"but has {example}. {KEPT}"
        )
    order = [name for name in _FIRST if name in found] + [n for n in found if n not in _FIRST]
    number = {name: i for i, name in enumerate(order)}
    return order, np.fromiter((number[name] for name in names), np.int64, len(names))


def _unique(ids: list[str], split: str) -> list[str]:
    if not all(ids) or any("\0" in text for text in ids) or len(set(ids)) < len(ids):
        twice = next((text for text, n in Counter(ids).items() if n > 1 or not text), "")
        raise UsageError(
            f"The id {twice!r} of {split} is empty, holds NUL, or is there twice. {KEPT}"
        )
    return ids
