"""Export the features of a cache into a file that other programs read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from featcache.core.arguments import one_of
from featcache.core.paths import expanded
from featcache.core.replace import write_new_file
from featcache.errors import UsageError, did_you_mean
from featcache.store.exports.npz_file import write_npz
from featcache.store.exports.parquet_file import require_pyarrow, write_parquet
from featcache.store.exports.safetensors_file import write_safetensors
from featcache.store.exports.table import Table, table_of
from featcache.store.reader import open_cache, state_of
from featcache.store.verify import require_classes, require_sound

_WRITERS: Mapping[str, Callable[[Table, BinaryIO], None]] = {
    "parquet": write_parquet,
    "npz": write_npz,
    "safetensors": write_safetensors,
}
EXPORT_FORMATS = tuple(_WRITERS)


@dataclass(frozen=True)
class ExportResult:
    """What `export_features` did.

    Attributes:
        path: The file.
        format: "parquet", "npz" or "safetensors".
        splits: Whose rows it has.
        n_rows: Rows of these splits, those without features included.
        n_features: Numbers in a row.
        fingerprint: Of the cache, 64 hex digits.
        nbytes: Size of the file.
    """

    path: Path
    format: str
    splits: tuple[str, ...]
    n_rows: int
    n_features: int
    fingerprint: str
    nbytes: int


def export_features(
    path: str | os.PathLike[str],
    *,
    format: str,
    out: str | os.PathLike[str],
    split: str | None = None,
) -> ExportResult:
    """Write the rows of a cache as Parquet, npz or safetensors.

    Beside the rows, the file holds the identity of the cache and the SHA-256 of each block. So
    `import_features` makes the same cache of it again. Of a cache with several views of each image,
    the file has the plain view, of which `import_features` makes a cache of imported features.

    Args:
        path: A complete cache. All its blocks are verified first.
        format: "parquet", "npz" or "safetensors".
        out: The file to write; it must not exist.
        split: Just this split; None takes all.

    Raises:
        UsageError: If the file exists, the split does not, or pyarrow is not installed.
        CorruptError: If the cache is damaged, or a label names no class.
        DiskFullError: If the disk cannot hold the file; nothing is left behind.
    """
    format = one_of("--format", format, EXPORT_FORMATS)
    if format == "parquet":
        require_pyarrow()
    out = expanded(out)
    if out.exists() or out.is_symlink():
        raise _exists(out)
    cache = open_cache(path)
    if split is not None and split not in cache.splits:
        raise UsageError(
            f"{cache.path.name} has no split {split!r}.{did_you_mean(split, cache.splits)} Nothing "
            f"was written. It has {', '.join(cache.splits)}."
        )
    require_sound(cache)
    names = [split] if split is not None else list(cache.splits)
    for name in names:
        require_classes(cache, name)
    table = table_of(cache, state_of(cache.file.fd, cache.path), names)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not write_new_file(out, lambda file: _WRITERS[format](table, file)):
        raise _exists(out)
    return ExportResult(
        path=out,
        format=format,
        splits=tuple(names),
        n_rows=table.n_rows,
        n_features=cache.n_features,
        fingerprint=cache.fingerprint,
        nbytes=out.stat().st_size,
    )


def _exists(out: Path) -> UsageError:
    return UsageError(f"{out} exists. Nothing was written. Remove it first, or give another --out.")
