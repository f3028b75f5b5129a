"""Import a foreign feature file into a cache: check all of it first, then write it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.config import IMPORTED, ExtractSpec
from featcache.core.arguments import several, text, whole_number
from featcache.core.dataset_names import LIST, imported_slug, name_of_path
from featcache.core.paths import expanded, healed, portable
from featcache.core.reporting import silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import UsageError
from featcache.store import open_cache
from featcache.store.imports.claims import Claims, read_claims
from featcache.store.imports.exported import differing_blocks, restore
from featcache.store.imports.formats import HDF5, format_of
from featcache.store.imports.keep import Taken, keep, take_hdf5, take_table
from featcache.store.imports.labels import named_classes
from featcache.store.imports.sandbox import KEPT
from featcache.store.imports.scan import Keys
from featcache.store.imports.scan_table import TableKeys
from featcache.version import __version__


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
    features: str | None = None,
    labels: str | None = None,
    ids: str | None = None,
    split: str | None = None,
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
    """Import features of an HDF5, Parquet, npz or safetensors file into a cache.

    The file is parsed in a child process with limits, and read twice: nothing is written before
    all of it was read and checked. A file that `export_features` wrote becomes the same cache
    again, if its rows are those of that cache.

    Args:
        path: The file. Its first bytes tell the format; .safetensors is told by its name.
        features: Key of the training features, (N, ...) floats; a row is flattened to (D,). None
            for a file that `export_features` wrote.
        labels: Key of their labels, (N,), (N, 1) or MATLAB's (1, N) whole numbers from 0; None if
            there are none.
        ids: Key of their ids, (N,) strings; None numbers the rows.
        split: Key of the names of the rows' splits, in other files than HDF5; None makes all
            rows "train".
        test_features: In an HDF5 file, the same of the split "test", if there is one.
        test_labels: Its labels.
        test_ids: Its ids.
        class_names: K names; empty names the classes by their numbers.
        n_classes: K, where classes without a row are meant; None takes the largest label's.
        name: Name of the dataset; None is the file's, or that of the cache which was exported.
        store_dtype: "float32" or "float16".
        cache_dir: Folder of all caches.
        on_note: Told of classes without a row, and of a file that is not what it says.

    Raises:
        UsageError: For keys that do not exist, or what cannot be features, labels or ids.
        NonFiniteError: For NaN, infinity, or what the storage type cannot hold.
        CorruptError: If the file is damaged, or its reader crashes.
        UnsafeFileError: If it reaches elsewhere, would fill the memory, or its reader exceeds a
            limit.
        DiskFullError: If the disk cannot hold the cache.
    """
    ExtractSpec(store_dtype=store_dtype)  # refuses an unknown one
    note = on_note or silent
    source = expanded(path)
    if not (source.exists() or source.is_symlink()):
        raise UsageError(f"There is no file {source}. {KEPT} Give the file to import.")
    if (images := name_of_path(str(source))) and images.startswith(LIST):
        raise UsageError(
            f"{source} is a list, which may name images; features are in HDF5, Parquet, npz or "
            f"safetensors files. {KEPT} Extract the features of its images with: featcache extract "
            f"--dataset {shlex.quote(images)}"
        )
    format = format_of(source)
    of_test = {"features": test_features, "labels": test_labels, "ids": test_ids}
    stem = re.sub(r"[^A-Za-z0-9.-]+", "_", source.stem).strip("._-")
    slug = imported_slug(name or stem)
    said: dict[str, Any] = {
        "dataset": f"{IMPORTED}:{slug}",
        "limit": None,
        "source": portable(source.name),
        "features": features,
        "labels": labels,
        "featcache": __version__,
    }
    names = tuple(map(healed, several(text, "--class-names", class_names)))
    given = features, labels, ids, split, *of_test.values()
    claims = None
    if format != HDF5 and not any(given):
        claims = read_claims(source, format=format)
    if claims is not None:
        folder = expanded(cache_dir) / (imported_slug(name) if name else claims.slug)
        what = _difference(source, claims, format)
        if not what:
            made = restore(source, claims, format=format, folder=folder, on_note=note)
            return _result(*made)
        note(f"{source.name} says that it is {claims.title}, but {what}: imported as it is")
        keys = claims.keys
        said |= {"features": keys.features, "labels": keys.labels}
        said["claims"] = f"{claims.title}, but {what}"
        names = names or claims.plan.class_names
    elif features is None:
        raise UsageError(
            f"{source} was not exported from a cache. {KEPT} Say where its features are with "
            f"--features, and what else it has with --labels and --ids."
        )
    else:
        keys = TableKeys(features, labels, ids, split)
    folder = expanded(cache_dir) / slug
    taken = _taken(source, keys, of_test, format=format, store_dtype=store_dtype, folder=folder)
    if n_classes is not None:
        n_classes = whole_number("--n-classes", n_classes)
    names = _class_names(taken, names, n_classes, note)
    return _result(*keep(taken, names, said, folder=folder))


def _difference(source: Path, claims: Claims, format: str) -> str:
    """Say in which way a file is not the cache that it was exported from; "" if it is."""
    if (n_views := claims.plan.identity.views.n) > 1:
        return f"has just the plain view of each image, of {n_views}"
    if not claims.is_whole:
        return f"has just {', '.join(claims.said['exported'])} of it"
    differing = differing_blocks(source, claims, format=format)
    if not differing:
        return ""
    n_blocks, first = len(claims.digests), differing[0]
    return (
        f"{len(differing)} of its {n_blocks} blocks differ, the first with {first.split} rows "
        f"{first.start} to {first.stop - 1}"
    )


def _taken(
    source: Path,
    keys: TableKeys,
    of_test: Mapping[str, str | None],
    *,
    format: str,
    store_dtype: str,
    folder: Path,
) -> Taken:
    if format != HDF5:
        if any(of_test.values()):
            raise UsageError(
                f"--test-features, --test-labels and --test-ids are for HDF5 files. {KEPT} Name "
                f"the column that says which row is of which split: --split."
            )
        return take_table(source, keys, format=format, store_dtype=store_dtype, folder=folder)
    if keys.split is not None:
        raise UsageError(f"--split is not for HDF5 files; there are --test-features. {KEPT}")
    of_split: dict[str, Keys] = {"train": (keys.features, keys.labels, keys.ids)}
    if any(of_test.values()):
        test_features = of_test["features"]
        if test_features is None or (of_test["labels"] is None) != (keys.labels is None):
            raise UsageError(
                f"--test-features and --test-labels belong together, --test-ids to both. {KEPT}"
            )
        of_split["test"] = (test_features, of_test["labels"], of_test["ids"])
    return take_hdf5(source, of_split, store_dtype=store_dtype, folder=folder)


def _class_names(
    taken: Taken, names: tuple[str, ...], n_classes: int | None, note: Callable[[str], None]
) -> tuple[str, ...]:
    labels = {n: s.labels for n, s in taken.splits.items() if s.labels is not None}
    if labels:
        return named_classes(labels, names, n_classes, note)
    if names or n_classes is not None:
        raise UsageError(f"--class-names and --n-classes need --labels. {KEPT}")
    return ()


def _result(path: Path, outcome: str) -> ImportResult:
    cache = open_cache(path)
    n_rows = sum(len(s) for s in cache.splits.values())
    return ImportResult(
        path, outcome, cache.fingerprint, n_rows, cache.n_features, cache.class_names
    )
