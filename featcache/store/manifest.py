"""The layout of a cache file: where every byte lies. `docs/format.md` is the contract."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.core.identity import canonical_json
from featcache.store.identity import Identity, NumericClass, Provenance

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MANIFEST_OFFSET = 4096
HEADER = "featcache manifest v{version:03d} length={length:010d} sha256={sha256}\n"
HEADER_LENGTH = len(HEADER.format(version=1, length=0, sha256="0" * 64))
FILE_VERSION = 2
"""The version of a new file. Version 1 is read, resumed and repaired as it is."""
COLUMNS = ("features", "labels", "valid", "reason", "ids", "image_sha256")
REASON_BYTES = 80
TRUNK, REFERENCE = "trunk", "reference"
PARTS = {TRUNK: "the backbone's running statistics", REFERENCE: "the backbone's reference rows"}
"""What has a ledger slot of its own beside the blocks, by its name in a report of damage."""
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


class Part(NamedTuple):
    """What has a slot of its own beside the blocks: the statistics or the reference rows."""

    slot: int
    extent: Extent


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

    def by_name(self, values: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Cut all values, (n_values,), into the tensors that they are."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.entries])
        parts = np.split(values, ends[:-1])
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.entries, parts, strict=True)
        }


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
        reference: (R, D) float32, features of the reference images; None where no network ran, and
            in version 1.
        file_size: Bytes of the whole file.
        version: Of the file's format, 1 or 2.
    """

    identity: Identity
    numerics: NumericClass
    provenance: Provenance
    class_names: tuple[str, ...]
    rows_per_block: int
    splits: Mapping[str, SplitLayout]
    ledger: Extent
    statistics: BackboneStatistics | None
    reference: Extent | None
    file_size: int
    version: int

    @property
    def n_features(self) -> int:
        """Numbers in a row, or in one view of it."""
        name, split = next(iter(self.splits.items()))
        return split.columns["features"].n_values // self.n_views(name)

    def n_views(self, split: str) -> int:
        """Tell how many views each row of a split has."""
        return self.identity.views.n_of(split)

    @property
    def parts(self) -> dict[str, Part]:
        """The parts with a slot of their own, by their names in a report of damage."""
        extents = {
            TRUNK: None if self.statistics is None else self.statistics.extent,
            REFERENCE: self.reference,
        }
        there = {name: extent for name, extent in extents.items() if extent is not None}
        return {name: Part(1 + i, there[name]) for i, name in enumerate(there)}

    @property
    def n_blocks(self) -> int:
        """Blocks of all splits."""
        return sum(-(-s.n_rows // self.rows_per_block) for s in self.splits.values())

    @property
    def n_slots(self) -> int:
        """Slots of the ledger: the skeleton's, those of the parts, the blocks'."""
        return 1 + len(self.parts) + self.n_blocks

    def blocks(self, first: int = 0, behind: int | None = None) -> list[Block]:
        """List the blocks first..behind, counted over all splits, in slot order; every block."""
        slot, size, n_before = self.n_slots - self.n_blocks, self.rows_per_block, 0
        blocks = []
        for name, split in self.splits.items():
            n_here = -(-split.n_rows // size)
            last = n_here if behind is None else min(n_here, behind - n_before)
            for i in range(max(0, first - n_before), last):
                stop = min((i + 1) * size, split.n_rows)
                blocks.append(Block(slot + n_before + i, name, i * size, stop))
            n_before += n_here
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
        covered += [(e.offset, e.nbytes) for _, e in self.parts.values()]
        end = 0
        for offset, nbytes in sorted(covered):
            if offset > end:
                yield end, offset - end
            end = offset + nbytes
        if end < self.file_size:
            yield end, self.file_size - end

    def to_bytes(self) -> bytes:
        """Write header line and JSON."""
        said = {
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
            "ledger": _extent_json(self.ledger),
            "statistics": None if self.statistics is None else asdict(self.statistics),
            "file_size": self.file_size,
        }
        if self.version > 1:
            said["reference"] = None if self.reference is None else _extent_json(self.reference)
        body = canonical_json(said).encode()
        sha256 = hashlib.sha256(body).hexdigest()
        header = HEADER.format(version=self.version, length=len(body), sha256=sha256)
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
    return {name: _extent_json(extent) for name, extent in columns.items()}


def _extent_json(extent: Extent) -> dict[str, Any]:
    return {"offset": extent.offset, "shape": list(extent.shape), "dtype": extent.dtype}
