"""Say what a cache holds, complete or not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.config import TOLD_OF_HEADERS
from featcache.core.paths import expanded
from featcache.core.reporting import NOT_DECODED_HERE
from featcache.errors import CorruptError
from featcache.store.manifest import Manifest
from featcache.store.reader import open_readonly, read_state
from featcache.store.split import CacheSplit, OpenedFile


@dataclass(frozen=True)
class SplitDescription:
    """One split of a described cache.

    Attributes:
        name: Its name.
        n_rows: N.
        row_shape: (D,), (K, D) for K views of each image, or (H, W, 3) for `pixels`.
        dtype: "float32", "float16" or "uint8".
        rows_per_class: By class name; empty if the images have no labels.
        failures: The reason, by id, for every row that is not valid; empty for an incomplete
            file, whose unwritten rows are not valid either.
        n_not_decoded: Those of them that the machine, not the image, kept from being decoded;
            `repair_cache` computes them.
    """

    name: str
    n_rows: int
    row_shape: tuple[int, ...]
    dtype: str
    rows_per_class: Mapping[str, int]
    failures: Mapping[str, str]
    n_not_decoded: int


@dataclass(frozen=True)
class CacheDescription:
    """What `describe_cache` reads.

    Attributes:
        path: The file.
        state: "complete", "incomplete" or "damaged".
        n_rows: Rows of all splits.
        n_rows_done: Rows that are written.
        nbytes: Size of the file.
        format_version: Of the file.
        fingerprint: 64 hex digits.
        identity: What the fingerprint is the hash of.
        provenance: Names, versions and counts for people.
        numerics: The numeric class that computed the rows.
        n_foreign_blocks: Blocks that another numeric class computed (--mix-numerics).
        class_names: K names; empty if the images have no labels.
        splits: In file order.
    """

    path: Path
    state: str
    n_rows: int
    n_rows_done: int
    nbytes: int
    format_version: int
    fingerprint: str
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    numerics: Mapping[str, Any]
    n_foreign_blocks: int
    class_names: tuple[str, ...]
    splits: tuple[SplitDescription, ...]


def describe_cache(path: str | os.PathLike[str]) -> CacheDescription:
    """Read all of a cache except its features; raises what `open_cache` raises."""
    path = expanded(path)
    state = read_state(path)
    manifest = state.manifest
    file = OpenedFile(path, open_readonly)
    splits = []
    for name, layout in manifest.splits.items():
        split = CacheSplit(name, layout.n_rows, file, layout.columns, manifest.n_views(name))
        features = layout.columns["features"]
        failures = split.failures if state.is_complete else {}
        splits.append(
            SplitDescription(
                name=name,
                n_rows=layout.n_rows,
                row_shape=features.shape[1:],
                dtype=str(np.dtype(features.dtype)),
                rows_per_class=_rows_per_class(path, manifest, split),
                failures=failures,
                n_not_decoded=sum(r.startswith(NOT_DECODED_HERE) for r in failures.values()),
            )
        )
    return CacheDescription(
        path=path,
        state=state.word,
        n_rows=state.n_rows,
        n_rows_done=state.n_rows_done,
        nbytes=manifest.file_size,
        format_version=manifest.version,
        fingerprint=manifest.identity.fingerprint,
        identity=manifest.identity.to_json(),
        provenance={**_untold(manifest), **manifest.provenance},
        numerics=manifest.numerics.to_json(),
        n_foreign_blocks=len(state.foreign_blocks),
        class_names=manifest.class_names,
        splits=tuple(splits),
    )


def _rows_per_class(path: Path, manifest: Manifest, split: CacheSplit) -> dict[str, int]:
    labels, n_classes = split.labels, len(manifest.class_names)
    if labels is None:
        return {}
    if not ((labels >= 0) & (labels < n_classes)).all():
        raise CorruptError(
            f"{path}: labels of split {split.name!r} lie outside its {n_classes} classes. Nothing "
            f"was changed. Check the file with: featcache cache verify {shlex.quote(str(path))}"
        )
    counts = np.bincount(labels, minlength=n_classes)
    return {c: int(n) for c, n in zip(manifest.class_names, counts, strict=True)}


def _untold(manifest: Manifest) -> dict[str, str]:
    """Say "unknown" for what version 0.1 did not count in a cache of image files."""
    are_files = any("reason" in split.columns for split in manifest.splits.values())
    return dict.fromkeys(TOLD_OF_HEADERS, "unknown") if are_files else {}
