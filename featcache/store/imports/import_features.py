"""Import a foreign feature file into a cache: check all of it first, then write it."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache.config import IMPORTED, ExtractSpec
from featcache.core.arguments import several, text, whole_number
from featcache.core.dataset_names import imported_slug
from featcache.core.identity import IDENTITY_FORMAT
from featcache.core.paths import expanded, healed, portable
from featcache.core.reporting import silent
from featcache.core.starting import ANY_START, starting
from featcache.core.stopping import stop_if_asked, working
from featcache.errors import CorruptError, UsageError
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
    open_cache,
    partial_path,
    read_state,
    require_identity,
    rows_per_block,
    verify_cache,
    was_made_from,
)
from featcache.store.imports.labels import named_classes
from featcache.store.imports.sandbox import KEPT, Column, reading
from featcache.store.imports.scan import Keys, ScannedSplit, content_digest, scan, stored_rows
from featcache.version import __version__

_CHANGED = "The file changed while it was read. Nothing was kept."


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


@starting(*ANY_START)
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
    n_classes: int | None = None,
    name: str | None = None,
    store_dtype: str = ExtractSpec.store_dtype,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    on_note: Callable[[str], None] | None = None,
) -> ImportResult:
    """Import features and labels of a foreign HDF5 file into a cache.

    The file is parsed in a child process with limits, and read twice: nothing is written before
    all of it was read and checked.

    Args:
        path: The HDF5 file.
        features: Key of the training features, (N, ...) floats; a row is flattened to (D,).
        labels: Key of their labels, (N,), (N, 1) or MATLAB's (1, N) whole numbers from 0.
        ids: Key of their ids, (N,) strings; None numbers the rows.
        test_features: The same of the split "test", if there is one.
        test_labels: Its labels.
        test_ids: Its ids.
        class_names: K names; empty names the classes by their numbers.
        n_classes: K, where classes without a row are meant; None takes the largest label's.
        name: Name of the dataset; None is the file's.
        store_dtype: "float32" or "float16".
        cache_dir: Folder of all caches.
        on_note: Told of classes without a row.

    Raises:
        UsageError: For keys that do not exist, or what cannot be features, labels or ids.
        NonFiniteError: For NaN, infinity, or what the storage type cannot hold.
        CorruptError: If the file is damaged, or its reader crashes.
        UnsafeFileError: If it reaches elsewhere, would fill the memory, or its reader exceeds a
            limit.
        DiskFullError: If the disk cannot hold the cache.
    """
    ExtractSpec(store_dtype=store_dtype)  # refuses an unknown one
    source = expanded(path)
    if not (source.exists() or source.is_symlink()):
        raise UsageError(f"There is no file {source}. {KEPT} Give the HDF5 file to import.")
    keys = {"train": (features, labels, ids)}
    if test_features is not None and test_labels is not None:
        keys["test"] = (test_features, test_labels, test_ids)
    elif test_features or test_labels or test_ids:
        raise UsageError(
            f"--test-features and --test-labels belong together, --test-ids to both. {KEPT}"
        )
    slug = imported_slug(name or re.sub(r"[^A-Za-z0-9.-]+", "_", source.stem).strip("._-"))
    dataset = f"{IMPORTED}:{slug}"
    folder = expanded(cache_dir) / slug
    splits = scan(source, keys, store_dtype=store_dtype, folder=folder)
    labels_by_split = {n: s.labels for n, s in splits.items()}
    names = tuple(map(healed, several(text, "--class-names", class_names)))
    if n_classes is not None:
        n_classes = whole_number("--n-classes", n_classes)
    names = named_classes(labels_by_split, names, n_classes, on_note or silent)
    identity = Identity.from_json(
        {
            "format": IDENTITY_FORMAT,
            "backbone": IMPORTED,
            "bn": "frozen",
            "store_dtype": store_dtype,
            "dataset_sha256": content_digest(splits, names),
        }
    )
    plan = FilePlan(
        identity=identity,
        numerics=NumericClass.from_json({}),
        provenance=Provenance.from_json(
            {
                "dataset": dataset,
                "limit": None,
                "source": portable(source.name),
                "features": features,
                "labels": labels,
                "featcache": __version__,
            }
        ),
        class_names=names,
        rows_per_block=rows_per_block(splits["train"].n_features * 4, 1),
        splits={n: _split_plan(s, store_dtype) for n, s in splits.items()},
    )
    target = cache_path(folder, IMPORTED, identity.fingerprint)
    with locked(target):
        outcome = "reused"
        if not _is_sound(target, plan):
            with working():
                target.unlink(missing_ok=True)  # all its rows have just been read again
                _write(target, plan, source, keys, splits)
            outcome = "imported"
    cache = open_cache(target)
    n_rows = sum(len(s) for s in cache.splits.values())
    return ImportResult(
        target, outcome, cache.fingerprint, n_rows, cache.n_features, cache.class_names
    )


def _is_sound(target: Path, plan: FilePlan) -> bool:
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
    )


def _write(
    target: Path,
    plan: FilePlan,
    source: Path,
    keys: dict[str, Keys],
    splits: dict[str, ScannedSplit],
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


def _write_split(writer: CacheWriter, name: str, split: ScannedSplit, column: Column) -> None:
    dtype = writer.manifest.splits[name].columns["features"].dtype
    sha = hashlib.sha256()
    if (column.shape[0], math.prod(column.shape[1:])) != (len(split), split.n_features):
        raise CorruptError(_CHANGED)
    parts = stored_rows(column, np.dtype(dtype).name, name)
    held = np.empty((0, split.n_features), dtype)
    for block in [b for b in writer.pending() if b.split == name]:
        n_rows = block.stop - block.start
        stop_if_asked()
        while len(held) < n_rows:
            part = next(parts, None)
            if part is None:
                raise CorruptError(_CHANGED)
            sha.update(part.data.cast("B"))
            held = np.concatenate([held, part])
        writer.write_block(block, held[:n_rows], np.ones(n_rows, np.bool_))
        held = held[n_rows:]
    if len(held) or sha.hexdigest() != split.features_sha256:
        raise CorruptError(_CHANGED)
    writer.commit()
