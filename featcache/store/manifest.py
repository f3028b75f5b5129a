"""The layout of a cache file: where every byte lies. `docs/format.md` is the contract."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from featcache.core.identity import FORMAT_VERSION, canonical_json
from featcache.store.identity import Identity, NumericClass, Provenance

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MANIFEST_OFFSET = 4096
HEADER = "featcache manifest v{version:03d} length={length:010d} sha256={sha256}\n"
HEADER_LENGTH = len(HEADER.format(version=1, length=0, sha256="0" * 64))
COLUMNS = ("features", "labels", "valid", "reason", "ids")
REASON_BYTES = 80
# 10 s at 4 images a second of VGG16 (31 GFLOP), the slowest backbone of the notebook: so fast are
# two cores without an engine (docs/benchmarks.md).
_GFLOP_PER_BLOCK = 10 * 4 * 31.0
_FEWEST_ROWS = 16


class Extent(NamedTuple):
    """Where one dataset's bytes lie: contiguous, row after row, little-endian."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def n_values(self) -> int:
        """Values in one row."""
        return math.prod(self.shape[1:])

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row."""
        return int(np.dtype(self.dtype).itemsize) * self.n_values

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.row_nbytes * self.shape[0]

    def rows(self, start: int, stop: int) -> tuple[int, int]:
        """(offset, number of bytes) of the rows start..stop."""
        return self.offset + start * self.row_nbytes, (stop - start) * self.row_nbytes


class Block(NamedTuple):
    """The unit of writing, digest and resume: rows start..stop of one split."""

    slot: int
    split: str
    start: int
    stop: int


@dataclass(frozen=True)
class SplitLayout:
    """One split of a file: how many rows, and where each column lies."""

    n_rows: int
    columns: Mapping[str, Extent]


@dataclass(frozen=True)
class BackboneStatistics:
    """Running statistics of an adapted backbone: float32 tensors, one after the other."""

    offset: int
    entries: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def extent(self) -> Extent:
        """The place of all of them together."""
        n_values = sum(math.prod(shape) for _, shape in self.entries)
        return Extent(self.offset, (n_values,), "<f4")


@dataclass(frozen=True)
class Manifest:
    """All that is known about a file before its first row is read.

    Attributes:
        identity: The fields whose hash is the fingerprint.
        numerics: The numeric class of the run that created the file.
        provenance: Names and versions for people; not part of the identity.
        class_names: K names; label k is class_names[k].
        rows_per_block: Rows in every block but a split's last.
        splits: By name, in file order.
        ledger: (n_slots, 64) uint8.
        statistics: Present if the backbone's BatchNorm was adapted.
        file_size: Bytes of the whole file.
    """

    identity: Identity
    numerics: NumericClass
    provenance: Provenance
    class_names: tuple[str, ...]
    rows_per_block: int
    splits: Mapping[str, SplitLayout]
    ledger: Extent
    statistics: BackboneStatistics | None
    file_size: int

    @property
    def n_blocks(self) -> int:
        """Blocks of all splits."""
        return sum(-(-s.n_rows // self.rows_per_block) for s in self.splits.values())

    @property
    def n_slots(self) -> int:
        """Slots of the ledger: the skeleton's, the statistics' if there are any, the blocks'."""
        return self.n_blocks + (1 if self.statistics is None else 2)

    def blocks(self) -> list[Block]:
        """List every block, in slot order."""
        slot = self.n_slots - self.n_blocks
        blocks = []
        for name, split in self.splits.items():
            for start in range(0, split.n_rows, self.rows_per_block):
                stop = min(start + self.rows_per_block, split.n_rows)
                blocks.append(Block(slot, name, start, stop))
                slot += 1
        return blocks

    def block_extents(self, block: Block) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of the block's rows in every column, in the digest's order."""
        for column in COLUMNS:
            extent = self.splits[block.split].columns.get(column)
            if extent is not None:
                yield extent.rows(block.start, block.stop)

    def skeleton_extents(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of all that is neither ledger nor under a block's digest."""
        covered = [(self.ledger.offset, self.ledger.nbytes)]
        covered += [(e.offset, e.nbytes) for s in self.splits.values() for e in s.columns.values()]
        if self.statistics is not None:
            covered.append((self.statistics.offset, self.statistics.extent.nbytes))
        end = 0
        for offset, nbytes in sorted(covered):
            if offset > end:
                yield end, offset - end
            end = offset + nbytes
        if end < self.file_size:
            yield end, self.file_size - end

    def to_bytes(self) -> bytes:
        """Write header line and JSON."""
        body = canonical_json(
            {
                "identity": self.identity.to_json(),
                "fingerprint": self.identity.fingerprint,
                "numerics": self.numerics.to_json(),
                "provenance": self.provenance.to_json(),
                "class_names": list(self.class_names),
                "rows_per_block": self.rows_per_block,
                # A list, not a mapping: the order of the splits decides the numbers of the slots.
                "splits": [
                    {"name": name, "n_rows": s.n_rows, "columns": _extents_json(s.columns)}
                    for name, s in self.splits.items()
                ],
                "ledger": _extents_json({"ledger": self.ledger})["ledger"],
                "statistics": None if self.statistics is None else asdict(self.statistics),
                "file_size": self.file_size,
            }
        ).encode()
        sha256 = hashlib.sha256(body).hexdigest()
        header = HEADER.format(version=FORMAT_VERSION, length=len(body), sha256=sha256)
        return header.encode() + body


def rows_per_block(row_nbytes: int, batch_size: int, *, gflop: float = 0.0) -> int:
    """Choose the rows of a block: about 8 MiB and 10 s of work at most, in whole batches.

    A block is also what an interruption costs. The seconds are those of a slow machine, and never
    measured ones: whoever makes the file, it has the same blocks. If batches allow, blocks have
    128 rows where rows are wide, 512 where they are narrow (10 s of MobileNetV2 on two cores), and
    fewer, but 16, of a heavy backbone.

    Args:
        row_nbytes: Bytes of the features of one row.
        batch_size: Rows in one forward pass.
        gflop: Work of the backbone for one image; 0 where there is none.
    """
    wanted = min(512, max(128, (8 << 20) // row_nbytes))
    if gflop:
        wanted = min(wanted, max(_FEWEST_ROWS, int(_GFLOP_PER_BLOCK / gflop)))
    return max(1, wanted // batch_size) * batch_size


def _extents_json(columns: Mapping[str, Extent]) -> dict[str, Any]:
    return {
        name: {"offset": e.offset, "shape": list(e.shape), "dtype": e.dtype}
        for name, e in columns.items()
    }
