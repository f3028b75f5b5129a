"""A thread that writes blocks while the trunk computes the next."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.stopping import stop_if_asked
from featcache.store import Block, CacheWriter

_QUEUED_BLOCKS = 4
_TICK_S = 0.1


class FinishedBlock(NamedTuple):
    """A block on its way to the disk."""

    block: Block
    features: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    reasons: Mapping[int, str]


class BlockWriter:
    """A thread that writes blocks and acknowledges those that wait together; a context manager."""

    def __init__(self, writer: CacheWriter, numerics: Mapping[str, Any]) -> None:
        self._writer = writer
        self._numerics = numerics
        self._queue: queue.Queue[FinishedBlock] = queue.Queue(_QUEUED_BLOCKS)
        self._is_closing = threading.Event()
        self._is_abandoned = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="featcache-writer", daemon=True)
        self._thread.start()

    def put(self, finished: FinishedBlock) -> None:
        """Hand over a block, waiting for room.

        Raises:
            StorageError: If an earlier block could not be written.
        """
        while self._error is None:
            with contextlib.suppress(queue.Full):
                self._queue.put(finished, timeout=_TICK_S)
                return
            stop_if_asked()
        raise self._error

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until all is acknowledged; never leave the thread behind with an open file.

        A second Ctrl-C meanwhile gives up the blocks that wait, not the one being written. An
        error of the thread is raised, unless another is on its way already.
        """
        self._is_closing.set()
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self._is_abandoned.set()
            self._thread.join()
            raise
        if self._error is not None and err is None:
            raise self._error

    def _run(self) -> None:
        try:
            while waiting := self._next_blocks():
                for finished in waiting:
                    if not self._is_abandoned.is_set():
                        self._writer.write_block(*finished)
                self._writer.commit(self._numerics)
        except BaseException as err:  # handed to the thread that computes
            self._error = err

    def _next_blocks(self) -> list[FinishedBlock]:
        """Take all blocks that wait, at least one; none at all means the end."""
        blocks: list[FinishedBlock] = []
        while not self._is_abandoned.is_set():
            with contextlib.suppress(queue.Empty):
                blocks.append(self._queue.get(timeout=0 if blocks else _TICK_S))
                continue
            if blocks or self._is_closing.is_set():
                break
        return blocks
