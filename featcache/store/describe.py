"""Say what a cache holds, complete or not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.store.reader import CacheSplit, read_state


@dataclass(frozen=True)
class SplitDescription:
    """One split of a described cache.

    Attributes:
        name: Its name.
        n_rows: N.
        row_shape: (D,), or (H, W, 3) for `pixels`.
        dtype: "float32", "float16" or "uint8".
        rows_per_class: By class name.
        failures: The reason, by id, for every row that is written and not valid.
    """

    name: str
    n_rows: int
    row_shape: tuple[int, ...]
    dtype: str
    rows_per_class: Mapping[str, int]
    failures: Mapping[str, str]


@dataclass(frozen=True)
class CacheDescription:
    """What `describe_cache` reads.

    Attributes:
        path: The file.
        state: "complete", or "N of M rows".
        nbytes: Size of the file.
        fingerprint: 64 hex digits.
        identity: What the fingerprint is the hash of.
        provenance: Names and versions for people.
        numerics: The numeric class that computed the rows.
        n_foreign_blocks: Blocks that another numeric class computed (--mix-numerics).
        class_names: K names.
        splits: In file order.
    """

    path: Path
    state: str
    nbytes: int
    fingerprint: str
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    numerics: Mapping[str, Any]
    n_foreign_blocks: int
    class_names: tuple[str, ...]
    splits: tuple[SplitDescription, ...]


def describe_cache(path: str | os.PathLike[str]) -> CacheDescription:
    """Read all of a cache but its features; the raises are those of `open_cache`."""
    path = Path(path)
    state = read_state(path)
    manifest = state.manifest
    is_done = state.is_complete
    splits = []
    for name, layout in manifest.splits.items():
        split = CacheSplit(name, layout.n_rows, path, layout.columns)
        counts = np.bincount(split.labels, minlength=len(manifest.class_names))
        features = layout.columns["features"]
        splits.append(
            SplitDescription(
                name=name,
                n_rows=layout.n_rows,
                row_shape=features.shape[1:],
                dtype=str(np.dtype(features.dtype)),
                rows_per_class={
                    c: int(n) for c, n in zip(manifest.class_names, counts, strict=True)
                },
                failures=split.failures if is_done else {},
            )
        )
    return CacheDescription(
        path=path,
        state="complete" if is_done else f"{state.n_rows_done} of {state.n_rows} rows",
        nbytes=manifest.file_size,
        fingerprint=manifest.fingerprint,
        identity=manifest.identity,
        provenance=manifest.provenance,
        numerics=manifest.numerics,
        n_foreign_blocks=len(state.foreign_blocks),
        class_names=manifest.class_names,
        splits=tuple(splits),
    )
