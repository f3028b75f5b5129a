"""A thread that writes blocks while the trunk computes the next."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.store import Block, CacheWriter

_QUEUED_BLOCKS = 4


class FinishedBlock(NamedTuple):
    """A block on its way to the disk."""

    block: Block
    features: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    reasons: Mapping[int, str]


class BlockWriter:
    """A thread that writes blocks and acknowledges those that wait together."""

    def __init__(self, writer: CacheWriter, numerics: Mapping[str, Any]) -> None:
        self._writer = writer
        self._numerics = numerics
        self._queue: queue.Queue[FinishedBlock | None] = queue.Queue(_QUEUED_BLOCKS)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="featcache-writer", daemon=True)
        self._thread.start()

    def put(self, finished: FinishedBlock) -> None:
        """Hand over a block, waiting for room.

        Raises:
            StorageError: If an earlier block could not be written.
        """
        while self._error is None:
            try:
                self._queue.put(finished, timeout=0.2)
            except queue.Full:
                continue
            return
        raise self._error

    def close(self) -> None:
        """Wait until all is acknowledged.

        Raises:
            StorageError: If a block could not be written.
        """
        while self._error is None and self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.2)
            except queue.Full:
                continue
            break
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            is_open = True
            while is_open:
                waiting = [self._queue.get()]
                while not self._queue.empty():
                    waiting.append(self._queue.get())
                is_open = waiting[-1] is not None
                for finished in waiting:
                    if finished is not None:
                        self._writer.write_block(*finished)
                self._writer.commit(self._numerics)
        except BaseException as err:  # handed to the thread that computes
            self._error = err
