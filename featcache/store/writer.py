"""Write rows so that an acknowledged row is never lost.

The order is: write the rows, sync, write the ledger slot, sync. A row counts as saved when the slot
of its block is on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.files import (
    named_failures,
    named_read_failures,
    read_at,
    sync_bytes,
    sync_folder,
    write_at,
)
from featcache.core.side_files import partial_path
from featcache.errors import counted
from featcache.store.columns import SplitRows, clipped_reason, known_columns, require_planned
from featcache.store.digest import block_digest, read_part
from featcache.store.hdf5_file import FilePlan
from featcache.store.identity import NumericClass
from featcache.store.ledger import SLOT_BYTES, Slot, numeric_class_id, pack_slot, unpack_slots
from featcache.store.manifest import (
    COLUMNS,
    PARTS,
    REASON_BYTES,
    REFERENCE,
    TRUNK,
    Block,
    Manifest,
)
from featcache.store.new_file import make_partial_file
from featcache.store.reader import open_regular, read_ledger, read_manifest, read_slots


class CacheWriter:
    """Writes one cache file; the caller holds its lock.

    Use `create` or `resume`, then `write_block` for each of `pending()`, `commit` as often as
    blocks should be acknowledged, and `finish`. Several threads may write blocks while another
    one commits.

    Attributes:
        path: The final name of the cache.
        file: Where it is meanwhile.
    """

    def __init__(
        self,
        path: Path,
        file: Path,
        manifest: Manifest,
        fd: int,
        slots: dict[int, Slot],
        rows: Mapping[str, SplitRows],
    ) -> None:
        self.path = path
        self.file = file
        self.manifest = manifest
        self._fd = fd
        self._slots = slots
        self._forgotten: set[int] = set()
        self._rows = rows
        self._uncommitted: dict[int, tuple[bytes, int]] = {}
        self._uncommitted_lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, plan: FilePlan, rows: Mapping[str, SplitRows]) -> CacheWriter:
        """Make `<path>.partial` with all its space reserved, labels and ids in place.

        Without `rows`, labels and ids come with the blocks (`write_columns`).

        Raises:
            DiskFullError: If the disk cannot hold it; nothing is left behind.
            StorageError: If the folder cannot be written.
        """
        make_partial_file(path, plan, rows)
        return cls.resume(path, rows)

    @classmethod
    def resume(cls, path: Path, rows: Mapping[str, SplitRows]) -> CacheWriter:
        """Open what is there of a cache, with the blocks that were acknowledged.

        That is `<path>.partial`. A repair opens the file under its final name, and must not take
        an older partial file instead.

        Args:
            path: The final name of the cache.
            rows: Labels and ids, which are written again with each block.

        Raises:
            CorruptError: If its skeleton is damaged.
            UnsafeFileError: If it is not a regular file.
            StorageError: If it cannot be read and written.
        """
        partial = partial_path(path)
        file = path if path.exists() else partial
        with named_failures(file, kept="Nothing was changed."):
            fd = open_regular(file, os.O_RDWR)
            try:
                manifest = read_manifest(fd, name=str(file))
                slots, _ = read_slots(fd, manifest, path=file)
            except BaseException:
                os.close(fd)
                raise
        return cls(path, file, manifest, fd, slots, rows)

    def recheck(self, *, on_progress: Callable[[int, int], None] | None = None) -> list[Block]:
        """Compare every acknowledged block with its digest, and forget those that differ.

        Args:
            on_progress: Called with (rows compared, rows to compare).

        Returns:
            The blocks that are damaged and will be computed again.
        """
        damaged = []
        kept = self.acknowledged()
        n_kept, n_done = sum(b.stop - b.start for b in kept), 0
        for block in kept:
            slot = self._slots[block.slot]
            digest = None  # of rows that cannot be read: a bad sector
            with contextlib.suppress(OSError):
                digest = block_digest(self._fd, self.manifest, block)
            if digest != slot.sha256:
                self.forget(block)
                damaged.append(block)
            n_done += block.stop - block.start
            if on_progress is not None:
                on_progress(n_done, n_kept)
        return damaged

    def acknowledged(self) -> list[Block]:
        """List the blocks that are safe on the disk, in order."""
        return [b for b in self.manifest.blocks() if b.slot in self._slots]

    def pending(self) -> list[Block]:
        """List the blocks that are still to be written, in order."""
        return [b for b in self.manifest.blocks() if b.slot not in self._slots]

    def is_foreign(self, block: Block) -> bool:
        """Tell whether another numeric class than the file's own computed an acknowledged block."""
        own = numeric_class_id(self.manifest.numerics)
        return self._slots[block.slot].numeric_id != own

    def forget(self, block: Block) -> None:
        """Count an acknowledged block as pending, so that it is written again."""
        del self._slots[block.slot]
        self._forgotten.add(block.slot)

    def refresh(self) -> None:
        """Read the ledger again: other processes may have acknowledged blocks of this file.

        A block that was forgotten stays pending while its old slot is on the disk.
        """
        with named_read_failures(self.file):
            slots, _ = unpack_slots(read_ledger(self._fd, self.manifest))
        self._forgotten &= slots.keys()
        self._slots |= {n: slot for n, slot in slots.items() if n not in self._forgotten}

    def read_rows(
        self, split: str, start: int, stop: int, *, column: str = "features"
    ) -> npt.NDArray[Any]:
        """Read what is stored, (stop - start, ...) in the column's type."""
        extent = self.manifest.splits[split].columns[column]
        offset, nbytes = extent.rows(start, stop)
        flat = np.frombuffer(read_at(self._fd, nbytes, offset), extent.dtype)
        return flat.reshape(stop - start, *extent.shape[1:])

    def write_block(
        self,
        block: Block,
        features: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_],
        reasons: Mapping[int, str] | None = None,
    ) -> None:
        """Write the rows of one block; they count once `commit` has returned.

        Args:
            block: One of `pending()`.
            features: (R, ...) in the storage type; R rows of the block.
            valid: (R,) False where the image could not be read.
            reasons: Why, by row within the block.
        """
        columns = self.manifest.splits[block.split].columns
        n_rows = block.stop - block.start
        wanted = (n_rows, *columns["features"].shape[1:]), np.dtype(columns["features"].dtype)
        found = features.shape, features.dtype
        require_planned(found == wanted, self.file, "its rows are others")
        content: dict[str, Any] = {
            "features": np.ascontiguousarray(features),
            "valid": valid.astype(np.uint8),
            **known_columns(self._rows[block.split], columns, block.start, block.stop),
        }
        if "reason" in columns:
            texts = np.zeros(n_rows, f"S{REASON_BYTES}")
            for row, reason in (reasons or {}).items():
                texts[row] = clipped_reason(reason)
            content["reason"] = texts
        self.write_columns(block, content)

    def write_columns(self, block: Block, content: Mapping[str, Any]) -> bytes:
        """Write all columns of a block as they are stored; raises and counts as `write_block` does.

        Returns:
            The SHA-256 that the ledger will hold.
        """
        columns = self.manifest.splits[block.split].columns
        sha = hashlib.sha256()
        with self._named_failures():
            for column in (name for name in COLUMNS if name in columns):
                offset, nbytes = columns[column].rows(block.start, block.stop)
                part = memoryview(content[column]).cast("B")
                require_planned(part.nbytes == nbytes, self.file, f"its {column} are others")
                write_at(self._fd, part, offset)
                sha.update(part)
        with self._uncommitted_lock:
            self._uncommitted[block.slot] = (sha.digest(), block.stop - block.start)
        return sha.digest()

    def write_statistics(
        self, values: npt.NDArray[np.float32], numerics: NumericClass | None = None
    ) -> None:
        """Write and acknowledge the backbone's running statistics.

        Args:
            values: (n_values,) float32.
            numerics: The numeric class that computed them, if not the file's own.
        """
        self._write_part(TRUNK, values, numerics)

    def read_statistics(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """Read the backbone's running statistics by name, if they are there and whole."""
        values, statistics = self._read_part(TRUNK), self.manifest.statistics
        return None if values is None or statistics is None else statistics.by_name(values)

    def write_reference(
        self, values: npt.NDArray[np.float32], numerics: NumericClass | None = None
    ) -> None:
        """Write and acknowledge the reference rows, (R, D); as `write_statistics` does."""
        self._write_part(REFERENCE, values, numerics)

    def read_reference(self) -> npt.NDArray[np.float32] | None:
        """Read the reference rows, (R, D), if they are there and whole."""
        return self._read_part(REFERENCE)

    def commit(
        self, numerics: NumericClass | None = None, *, numeric_id: bytes | None = None
    ) -> None:
        """Acknowledge the blocks written since the last commit.

        Args:
            numerics: The numeric class that computed them, if not the file's own.
            numeric_id: Its `numeric_class_id`, where only that is known.
        """
        numeric_id = numeric_id or numeric_class_id(numerics or self.manifest.numerics)
        # Forgotten if the sync fails: a second one would succeed, though the kernel has dropped
        # the pages (https://lwn.net/Articles/752063/).
        with self._uncommitted_lock:  # a block written after this line waits for the next commit
            uncommitted, self._uncommitted = self._uncommitted, {}
        if not uncommitted:
            return
        with self._named_failures():
            sync_bytes(self._fd)
            for number, (sha256, n_rows) in uncommitted.items():
                slot = pack_slot(number, Slot(sha256, numeric_id), n_rows)
                write_at(self._fd, slot, self.manifest.ledger.offset + number * SLOT_BYTES)
            sync_bytes(self._fd)
        for number, (sha256, _) in uncommitted.items():
            self._slots[number] = Slot(sha256, numeric_id)
            self._forgotten.discard(number)

    def finish(self) -> None:
        """Give the file its final name, once every block is acknowledged, by whomever.

        Raises:
            CorruptError: If one is not, with the first of them; the file keeps the name it has.
        """
        self.refresh()
        missing = [PARTS[n] for n, p in self.manifest.parts.items() if p.slot not in self._slots]
        missing += [f"{b.split} rows {b.start} to {b.stop - 1}" for b in self.pending()]
        problem = f"{len(missing)} blocks are not acknowledged ({', '.join(missing[:1])}, ...)"
        require_planned(not missing, self.file, problem)
        with self._named_failures():
            os.fsync(self._fd)
            if self.file != self.path:
                self.file.replace(self.path)
                sync_folder(self.path.parent)
            self.file = self.path

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what is not committed is lost."""
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _write_part(
        self, name: str, values: npt.NDArray[np.float32], numerics: NumericClass | None
    ) -> None:
        if name not in self.manifest.parts:
            raise ValueError(f"this file has no room for {PARTS[name]}")
        slot, extent = self.manifest.parts[name]
        require_planned(values.shape == extent.shape, self.file, f"{PARTS[name]} are others")
        content = values.astype("<f4").tobytes()
        with self._named_failures():
            write_at(self._fd, content, extent.offset)
        with self._uncommitted_lock:
            self._uncommitted[slot] = (hashlib.sha256(content).digest(), 0)
        self.commit(numerics)

    def _read_part(self, name: str) -> npt.NDArray[np.float32] | None:
        part = self.manifest.parts.get(name)
        if part is None or part.slot not in self._slots:
            return None
        return read_part(self._fd, part, self._slots[part.slot].sha256)

    def _named_failures(self) -> contextlib.AbstractContextManager[None]:
        return named_failures(self.file, kept=self._kept)

    def _kept(self) -> str:
        n = sum(b.stop - b.start for b in self.acknowledged())
        return f"{counted(n, 'row')} {'is' if n == 1 else 'are'} kept."
