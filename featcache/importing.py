"""Take a foreign feature file into a cache: read it whole once, then write what was read."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import featcache
from featcache.childreader import Column, reading
from featcache.datasets import dataset_slug
from featcache.errors import CorruptError, NonFiniteError, UsageError
from featcache.paths import expanded, healed, portable
from featcache.specs import FORMAT_VERSION, IMPORTED, ExtractSpec, fingerprint
from featcache.stopping import stop_if_asked, working
from featcache.store import (
    CacheWriter,
    FilePlan,
    SplitPlan,
    SplitRows,
    cache_path,
    encode_id,
    is_there,
    locked,
    open_cache,
    partial_path,
    read_state,
    require_identity,
    require_space,
    rows_per_block,
    verify_cache,
)

_MOST_CLASSES = 65_536
_KEPT = "Nothing was written."


@dataclass(frozen=True)
class ImportResult:
    """What `import_features` did.

    Attributes:
        path: The cache file.
        outcome: "imported", or "reused" (it was there, without damage).
        fingerprint: 64 hex digits.
        n_rows: Rows of all splits.
        n_features: D.
        class_names: K names.
    """

    path: Path
    outcome: str
    fingerprint: str
    n_rows: int
    n_features: int
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Split:
    """What the first reading found of a split."""

    rows: SplitRows
    n_features: int
    features_sha256: str


def import_features(
    path: str | os.PathLike[str],
    *,
    features: str,
    labels: str,
    ids: str | None = None,
    test_features: str | None = None,
    test_labels: str | None = None,
    test_ids: str | None = None,
    class_names: Sequence[str] = (),
    name: str | None = None,
    store_dtype: str = ExtractSpec.store_dtype,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
) -> ImportResult:
    """Import features and labels of a foreign HDF5 file into a cache.

    The file is parsed in a child process with limits, and read twice: nothing is written before
    all of it was read and checked.

    Args:
        path: The HDF5 file.
        features: Key of the training features, (N, ...) floats; a row is flattened to (D,).
        labels: Key of their labels, (N,) or (N, 1) whole numbers from 0.
        ids: Key of their ids, (N,) strings; None numbers the rows.
        test_features: The same of the split "test", if there is one.
        test_labels: Its labels.
        test_ids: Its ids.
        class_names: K names; empty names the classes by their numbers.
        name: Name of the dataset; None is the file's.
        store_dtype: "float32" or "float16".
        cache_dir: Folder of all caches.

    Raises:
        UsageError: For keys that do not exist, or what cannot be features, labels or ids.
        NonFiniteError: For NaN, infinity, or what the storage type cannot hold.
        CorruptError: If the file is damaged, or its reader crashes.
        UnsafeFileError: If it reaches elsewhere, or its reader exceeds a limit.
        DiskFullError: If the disk cannot hold the cache.
    """
    ExtractSpec(store_dtype=store_dtype)  # refuses an unknown one
    source = expanded(path)
    if not (source.exists() or source.is_symlink()):
        raise UsageError(f"There is no file {source}. {_KEPT} Give the HDF5 file to import.")
    keys = {"train": (features, labels, ids)}
    if test_features is not None and test_labels is not None:
        keys["test"] = (test_features, test_labels, test_ids)
    elif test_features or test_labels or test_ids:
        raise UsageError(
            f"--test-features and --test-labels belong together, --test-ids to both. {_KEPT}"
        )
    dataset = f"{IMPORTED}:{name or re.sub(r'[^A-Za-z0-9.-]+', '_', source.stem).strip('._-')}"
    folder = expanded(cache_dir) / dataset_slug(dataset)
    splits = _scan(source, keys, store_dtype=store_dtype, folder=folder)
    names = _named_classes(splits, tuple(map(healed, class_names)))
    identity = {
        "format": FORMAT_VERSION,
        "backbone": IMPORTED,
        "bn": "frozen",
        "store_dtype": store_dtype,
        "dataset_sha256": _digest(splits, names),
    }
    plan = FilePlan(
        identity=identity,
        numerics={},
        provenance={
            "dataset": dataset,
            "limit": None,
            "source": portable(source.name),
            "features": features,
            "labels": labels,
            "featcache": featcache.__version__,
        },
        class_names=names,
        rows_per_block=rows_per_block(splits["train"].n_features * 4, 1),
        splits={n: _split_plan(s, store_dtype) for n, s in splits.items()},
    )
    target = cache_path(folder, IMPORTED, fingerprint(identity))
    with locked(target):
        outcome = "reused"
        if not _is_sound(target, identity):
            with working():
                target.unlink(missing_ok=True)  # all its rows have just been read again
                _write(target, plan, source, keys, splits)
            outcome = "imported"
    cache = open_cache(target)
    n_rows = sum(len(s) for s in cache.splits.values())
    return ImportResult(
        target, outcome, cache.fingerprint, n_rows, cache.n_features, cache.class_names
    )


def _is_sound(target: Path, identity: Mapping[str, Any]) -> bool:
    """Tell whether the cache is there and none of its rows is damaged."""
    if not is_there(target):
        return False
    require_identity(target, read_state(target).manifest.identity, identity)
    return verify_cache(target).is_sound


Keys = tuple[str, str, str | None]


def _scan(
    source: Path, keys: dict[str, Keys], *, store_dtype: str, folder: Path
) -> dict[str, _Split]:
    asked = []
    for features, labels, ids in keys.values():
        asked += [("labels", labels)] + ([("ids", ids)] if ids is not None else [])
        asked += [("features", features)]
    splits: dict[str, _Split] = {}
    with reading(source, asked) as columns:
        waiting = iter(columns)
        for name, (_, _, ids_key) in keys.items():
            found = _labels(next(waiting), name)
            ids_column = next(waiting) if ids_key is not None else None
            names = ids_column.ids() if ids_column else [str(i) for i in range(len(found))]
            column = next(waiting)
            _require_shape(column, found, names, name)
            n_features = int(np.prod(column.shape[1:], dtype=np.int64))
            nbytes = len(found) * n_features * np.dtype(store_dtype).itemsize
            require_space(folder, nbytes=nbytes)
            sha = hashlib.sha256()
            for part in _stored(column, store_dtype, name):
                sha.update(part.tobytes())
            splits[name] = _Split(SplitRows(found, names), n_features, sha.hexdigest())
    if len({s.n_features for s in splits.values()}) > 1:
        raise UsageError(f"{source}: the splits have rows of different lengths. {_KEPT}")
    return splits


def _labels(column: Column, split: str) -> npt.NDArray[np.int64]:
    if column.shape[1:] not in ((), (1,)):
        raise UsageError(f"Labels of {split} have shape {column.shape}, expected (N,). {_KEPT}")
    found = np.concatenate(list(column.parts())).ravel()
    is_whole = np.isfinite(found) & (found == np.floor(found)) & (found >= 0)
    is_label = is_whole & (found < _MOST_CLASSES) if found.dtype != np.bool_ else found >= 0
    wrong = np.flatnonzero(~is_label)
    if len(wrong):
        raise UsageError(
            f"Labels of {split} must be whole numbers from 0 to {_MOST_CLASSES - 1}, but row "
            f"{wrong[0]} has {found[wrong[0]]}. {_KEPT}"
        )
    return found.astype(np.int64)


def _require_shape(
    column: Column, labels: npt.NDArray[np.int64], ids: Sequence[str], split: str
) -> None:
    if len(column.shape) < 2:
        raise UsageError(f"Features of {split} have shape {column.shape}, not (N, D). {_KEPT}")
    if not column.shape[0] == len(labels) == len(ids):
        raise UsageError(
            f"{split} has {column.shape[0]} rows of features, {len(labels)} labels and {len(ids)} "
            f"ids; expected as many of each. {_KEPT}"
        )
    if len(set(ids)) < len(ids) or not all(ids) or any("\0" in i for i in ids):
        raise UsageError(f"The ids of {split} are empty, hold NUL or are not unique. {_KEPT}")


def _stored(column: Column, store_dtype: str, split: str) -> Iterator[npt.NDArray[Any]]:
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
                f"{store_dtype}. "
                f"{_KEPT}"
            )
        start += len(part)
        yield stored


def _named_classes(splits: dict[str, _Split], names: tuple[str, ...]) -> tuple[str, ...]:
    largest = max(int(s.rows.labels.max()) for s in splits.values())
    if not names:
        return tuple(str(i) for i in range(largest + 1))
    if largest >= len(names):
        raise UsageError(
            f"--class-names has {len(names)} names, but labels go from 0 to {largest}. {_KEPT}"
        )
    if len(set(names)) < len(names) or not all(map(str.strip, names)):
        raise UsageError(f"--class-names has a name twice, or a blank one. {_KEPT}")
    return names


def _digest(splits: dict[str, _Split], names: tuple[str, ...]) -> str:
    """Hash all that was taken: class names, and for each split ids, labels and stored features."""
    sha = hashlib.sha256(repr(names).encode())
    for name, split in splits.items():
        for part in (
            name.encode(),
            split.rows.labels.tobytes(),
            repr(list(split.rows.ids)).encode(),
            f"{split.n_features} {split.features_sha256}".encode(),
        ):
            sha.update(len(part).to_bytes(8, "little") + part)
    return sha.hexdigest()


def _split_plan(split: _Split, store_dtype: str) -> SplitPlan:
    return SplitPlan(
        n_rows=len(split.rows.labels),
        feature_shape=(split.n_features,),
        feature_dtype=np.dtype(store_dtype).newbyteorder("<").str,
        id_nbytes=max(len(encode_id(i)) for i in split.rows.ids),
        has_reasons=False,
    )


def _write(
    target: Path,
    plan: FilePlan,
    source: Path,
    keys: dict[str, Keys],
    splits: dict[str, _Split],
) -> None:
    """Read the features again and write them; what is not finished is taken away."""
    asked = [("features", features) for features, _, _ in keys.values()]
    try:
        with (
            reading(source, asked) as columns,
            CacheWriter.create(target, plan, {n: s.rows for n, s in splits.items()}) as writer,
        ):
            for (name, split), column in zip(splits.items(), columns, strict=True):
                _write_split(writer, name, split, column)
            writer.finish()
    except BaseException:
        partial_path(target).unlink(missing_ok=True)
        raise


def _write_split(writer: CacheWriter, name: str, split: _Split, column: Column) -> None:
    dtype = writer.manifest.splits[name].columns["features"].dtype
    sha = hashlib.sha256()
    parts = _stored(column, np.dtype(dtype).name, name)
    held = np.empty((0, split.n_features), dtype)
    for block in [b for b in writer.pending() if b.split == name]:
        n_rows = block.stop - block.start
        stop_if_asked()
        while len(held) < n_rows:
            part = next(parts, None)
            if part is None or part.shape[1] != split.n_features:
                raise CorruptError("The file changed while it was read. Nothing was kept.")
            sha.update(part.tobytes())
            held = np.concatenate([held, part])
        writer.write_block(block, held[:n_rows], np.ones(n_rows, np.bool_))
        held = held[n_rows:]
    if len(held) or sha.hexdigest() != split.features_sha256:
        raise CorruptError("The file changed while it was read. Nothing was kept.")
    writer.commit()
