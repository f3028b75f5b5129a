"""A cache as one table: its columns row by row through all splits, and what it says of itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.files import read_at
from featcache.core.identity import canonical_json
from featcache.core.stopping import stop_if_asked
from featcache.store.manifest import Extent, Manifest
from featcache.store.reader import Cache, CacheState
from featcache.store.split import CacheSplit

ABOUT = "featcache"
"""Where a file keeps what the cache says of itself, as JSON."""
EXPORT_VERSION = 1
# By column of a cache: its name in a table, in the order in which a file has them.
NAMES = {
    "ids": "id",
    "split": "split",
    "labels": "label",
    "class_name": "class_name",
    "valid": "valid",
    "reason": "reason",
    "image_sha256": "image_sha256",
    "features": "features",
}
_BYTES_AT_ONCE = 8 << 20


@dataclass(frozen=True)
class Table:
    """The rows of one or all splits of a cache; of several views of each image, the plain one.

    Attributes:
        splits: Whose rows, one after the other.
        class_names: K names; label k is class_names[k].
        about: What the cache says of itself.
    """

    splits: Sequence[CacheSplit]
    class_names: tuple[str, ...]
    about: Mapping[str, Any]

    @property
    def n_rows(self) -> int:
        """Rows of all its splits."""
        return sum(split.n_rows for split in self.splits)

    @property
    def names(self) -> list[str]:
        """The columns that all its splits have, "split" and "class_name" beside them."""
        shared = set.intersection(*(set(split.columns) for split in self.splits))
        made = {"split"} | ({"class_name"} if "labels" in shared else set())
        return [name for name in NAMES if name in shared | made]

    def extent(self, name: str) -> Extent:
        """Give type and shape of a column; one split may have longer ids than another."""
        if name == "split":
            return Extent(0, (self.n_rows,), f"|S{_longest(s.name for s in self.splits)}")
        if name == "class_name":
            return Extent(0, (self.n_rows,), f"|S{_longest(self.class_names)}")
        extents = [
            split.plain_features if name == "features" else split.columns[name]
            for split in self.splits
        ]
        widest = max(extents, key=lambda extent: extent.row_nbytes)
        return widest._replace(shape=(self.n_rows, *widest.shape[1:]))

    def parts(self, name: str, *, n_rows: int | None = None) -> Iterator[npt.NDArray[Any]]:
        """Yield a column in parts of at most `n_rows`, or of about 8 MiB, none of two splits."""
        extent = self.extent(name)
        dtype = np.dtype(extent.dtype)
        n_rows = n_rows or max(1, _BYTES_AT_ONCE // extent.row_nbytes)
        for split in self.splits:
            for start in range(0, split.n_rows, n_rows):
                stop_if_asked()
                stop = min(start + n_rows, split.n_rows)
                yield self._part(name, split, start, stop).astype(dtype, copy=False)

    def _part(self, name: str, split: CacheSplit, start: int, stop: int) -> npt.NDArray[Any]:
        if name == "split":
            return np.full(stop - start, _encoded(split.name))
        if name == "class_name":
            names = np.array([_encoded(name) for name in self.class_names])
            classes: npt.NDArray[Any] = names[split.column("labels", start, stop)]
            return classes
        if name == "features":
            return split.read(start, stop)
        return split.column(name, start, stop)

    @property
    def about_json(self) -> bytes:
        """What the cache says of itself, as a file keeps it."""
        return canonical_json(self.about).encode()


def table_of(cache: Cache, state: CacheState, splits: Sequence[str]) -> Table:
    """Take the rows of these splits, and all claims of the cache.

    Args:
        cache: The cache, whose blocks were verified.
        state: Its manifest and ledger.
        splits: Names, in the cache's order.
    """
    manifest = state.manifest
    about = {
        "export": EXPORT_VERSION,
        "slug": cache.path.parent.name,
        "version": manifest.version,
        "identity": manifest.identity.to_json(),
        "fingerprint": manifest.identity.fingerprint,
        "numerics": manifest.numerics.to_json(),
        "provenance": manifest.provenance.to_json(),
        "class_names": list(manifest.class_names),
        "rows_per_block": manifest.rows_per_block,
        "splits": [_split_json(manifest, name) for name in manifest.splits],
        "statistics": None if manifest.statistics is None else list(manifest.statistics.entries),
        "reference": None if manifest.reference is None else list(manifest.reference.shape),
        "parts": _parts(cache, manifest),
        "blocks": [
            [
                block.split,
                block.start,
                block.stop,
                state.slots[block.slot].sha256.hex(),
                state.slots[block.slot].numeric_id.hex(),
            ]
            for block in manifest.blocks()
        ],
        "exported": list(splits),
    }
    return Table([cache[name] for name in splits], tuple(manifest.class_names), about)


def _split_json(manifest: Manifest, name: str) -> dict[str, Any]:
    layout = manifest.splits[name]
    columns = {name: [list(e.shape), e.dtype] for name, e in layout.columns.items()}
    return {"name": name, "n_rows": layout.n_rows, "columns": columns}


def _parts(cache: Cache, manifest: Manifest) -> dict[str, list[str]]:
    """Read what has a slot of its own beside the blocks: base64 and SHA-256 by name."""
    parts = {}
    for name, (_, extent) in manifest.parts.items():
        content = read_at(cache.file.fd, extent.nbytes, extent.offset)
        sha256 = hashlib.sha256(content).hexdigest()
        parts[name] = [base64.b64encode(content).decode(), sha256]
    return parts


def _longest(texts: Any) -> int:
    return max(1, *(len(_encoded(text)) for text in texts))


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
