"""Rows as they come, written into the blocks of an imported cache."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.stopping import stop_if_asked
from featcache.errors import CorruptError
from featcache.store import CacheWriter
from featcache.store.imports.scan import ScannedSplit

CHANGED = "The file changed while it was read. Nothing was kept."


class SplitFiller:
    """Takes the rows of one split in order, and writes each block that is full."""

    def __init__(self, writer: CacheWriter, name: str, split: ScannedSplit) -> None:
        """Begin with its first block."""
        self._writer = writer
        self._split = split
        dtype = writer.manifest.splits[name].columns["features"].dtype
        self._held: npt.NDArray[Any] = np.empty((0, split.n_features), dtype)
        self._blocks = deque(b for b in writer.pending() if b.split == name)
        self._sha = hashlib.sha256()

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Take (n, D) rows in the storage type."""
        self._sha.update(rows.data.cast("B"))
        self._held = np.concatenate([self._held, rows]) if len(self._held) else rows
        while self._blocks:
            stop_if_asked()
            n_rows = self._blocks[0].stop - self._blocks[0].start
            if len(self._held) < n_rows:
                return
            self._writer.write_block(
                self._blocks.popleft(), self._held[:n_rows], np.ones(n_rows, np.bool_)
            )
            self._held = self._held[n_rows:]

    def finish(self) -> None:
        """Acknowledge all, if these were the rows that were read before.

        Raises:
            CorruptError: If not.
        """
        if self._blocks or len(self._held):
            raise CorruptError(CHANGED)
        if self._sha.hexdigest() != self._split.features_sha256:
            raise CorruptError(CHANGED)
        self._writer.commit()
