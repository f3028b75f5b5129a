"""Keep what a foreign file holds: name the cache by it, and write it in a second reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.config import IMPORTED
from featcache.core.identity import IDENTITY_FORMAT
from featcache.core.stopping import working
from featcache.errors import CorruptError
from featcache.store import (
    CacheWriter,
    FilePlan,
    Identity,
    NumericClass,
    Provenance,
    SplitPlan,
    cache_path,
    encode_id,
    is_there,
    locked,
    partial_path,
    read_state,
    require_identity,
    rows_per_block,
    verify_cache,
    was_made_from,
)
from featcache.store.imports.filling import CHANGED, SplitFiller
from featcache.store.imports.sandbox import reading
from featcache.store.imports.scan import Keys, ScannedSplit, content_digest, scan, stored_rows
from featcache.store.imports.scan_table import TableKeys, scan_table


@dataclass(frozen=True, eq=False)
class Taken:
    """What the first reading of a foreign file found, and how its rows are read again.

    Attributes:
        splits: By name.
        store_dtype: "float32" or "float16".
        refill: Reads the rows again, into the filler of each split.
    """

    splits: Mapping[str, ScannedSplit]
    store_dtype: str
    refill: Callable[[Mapping[str, SplitFiller]], None]


def take_hdf5(source: Path, keys: Mapping[str, Keys], *, store_dtype: str, folder: Path) -> Taken:
    """Read an HDF5 file whole, once; the arguments are those of `scan`."""
    splits = scan(source, keys, store_dtype=store_dtype, folder=folder)

    def refill(fillers: Mapping[str, SplitFiller]) -> None:
        asked = [("features", features) for features, _, _ in keys.values()]
        with reading(source, asked) as columns:
            for (name, split), column in zip(splits.items(), columns, strict=True):
                _require_same_shape(column.shape, len(split), split.n_features)
                for rows in stored_rows(column, store_dtype, name):
                    fillers[name].add(rows)

    return Taken(splits, store_dtype, refill)


def take_table(
    source: Path, keys: TableKeys, *, format: str, store_dtype: str, folder: Path
) -> Taken:
    """Read a table whole, once; the arguments are those of `scan_table`."""
    table = scan_table(source, keys, format=format, store_dtype=store_dtype, folder=folder)

    def refill(fillers: Mapping[str, SplitFiller]) -> None:
        n_features = next(iter(table.splits.values())).n_features
        with reading(source, [("features", keys.features)], format=format) as [column]:
            _require_same_shape(column.shape, len(table.places), n_features)
            for name, rows in table.routed(column, store_dtype):
                fillers[name].add(rows)

    return Taken(table.splits, store_dtype, refill)


def keep(
    taken: Taken, class_names: Sequence[str], said: Mapping[str, Any], *, folder: Path
) -> tuple[Path, str]:
    """Make the cache, if it is not there without damage.

    Args:
        taken: The rows.
        class_names: K names.
        said: Its provenance.
        folder: Where it goes.

    Returns:
        The cache, and "imported" or "reused".
    """
    identity = Identity.from_json(
        {
            "format": IDENTITY_FORMAT,
            "backbone": IMPORTED,
            "bn": "frozen",
            "store_dtype": taken.store_dtype,
            "dataset_sha256": content_digest(taken.splits, class_names),
        }
    )
    n_features = next(iter(taken.splits.values())).n_features
    plan = FilePlan(
        identity=identity,
        numerics=NumericClass.from_json({}),
        provenance=Provenance.from_json(said),
        class_names=tuple(class_names),
        rows_per_block=rows_per_block(n_features * 4, 1),
        splits={n: _split_plan(s, taken.store_dtype) for n, s in taken.splits.items()},
    )
    target = cache_path(folder, IMPORTED, identity.fingerprint)
    with locked(target):
        if is_sound(target, plan):
            return target, "reused"
        with working():
            target.unlink(missing_ok=True)  # all its rows have just been read again
            _write(target, plan, taken)
    return target, "imported"


def is_sound(target: Path, plan: FilePlan) -> bool:
    """Tell whether the cache is there and not damaged; refuse a stranger's file in its place."""
    if not is_there(target):
        return False
    try:
        found = read_state(target).manifest.identity
    except CorruptError:
        if was_made_from(target, plan):
            return False
        raise
    require_identity(target, found, plan.identity)
    return verify_cache(target).is_sound


def _split_plan(split: ScannedSplit, store_dtype: str) -> SplitPlan:
    return SplitPlan(
        n_rows=len(split),
        feature_shape=(split.n_features,),
        feature_dtype=np.dtype(store_dtype).newbyteorder("<").str,
        id_nbytes=max(len(encode_id(i)) for i in split.ids),
        has_reasons=False,
        has_labels=split.labels is not None,
    )


def _write(target: Path, plan: FilePlan, taken: Taken) -> None:
    """Read the rows again and write them; what is not finished is taken away."""
    rows = {name: split.rows for name, split in taken.splits.items()}
    try:
        with CacheWriter.create(target, plan, rows) as writer:
            fillers = {n: SplitFiller(writer, n, split) for n, split in taken.splits.items()}
            taken.refill(fillers)
            for filler in fillers.values():
                filler.finish()
            writer.finish()
    except BaseException:
        partial_path(target).unlink(missing_ok=True)
        raise


def _require_same_shape(shape: tuple[int, ...], n_rows: int, n_features: int) -> None:
    if (shape[0], math.prod(shape[1:])) != (n_rows, n_features):
        raise CorruptError(CHANGED)
