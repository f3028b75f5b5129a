"""Threads that write blocks while the backbone computes the next."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.core.starting import starting
from featcache.core.stopping import stop_if_asked
from featcache.extraction.pace import current_pace
from featcache.store import Block, CacheWriter, NumericClass
from featcache.store.digest import N_DIGEST_THREADS


class FinishedBlock(NamedTuple):
    """A block on its way to the disk."""

    block: Block
    features: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    reasons: Mapping[int, str]


class BlockWriter:
    """Threads that digest and write blocks, and one that acknowledges them; a context manager."""

    def __init__(self, writer: CacheWriter, numerics: NumericClass) -> None:
        self._writer = writer
        self._numerics = numerics
        self._pace = current_pace()
        # None: the end
        self._queue: queue.Queue[FinishedBlock | None] = queue.Queue(self._pace.n_queued)
        self._is_abandoned = threading.Event()
        self._are_written = threading.Event()
        self._error: BaseException | None = None
        self._writing = [self._thread(self._write) for _ in range(N_DIGEST_THREADS)]
        self._committing = self._thread(self._commit)

    def put(self, finished: FinishedBlock) -> None:
        """Hand over a block, waiting for room.

        Raises:
            StorageError: If an earlier block could not be written.
        """
        while not self._is_queued(finished):
            if self._error is not None:
                raise self._error
            stop_if_asked()

    def __enter__(self) -> BlockWriter:
        try:
            with starting("Threads that write rows", kept="All acknowledged rows are kept."):
                for thread in (self._committing, *self._writing):
                    thread.start()
        except BaseException:  # a limit of processes: leave none behind
            self._is_abandoned.set()
            self._are_written.set()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until all is acknowledged; never leave a thread behind with an open file.

        A second Ctrl-C meanwhile gives up the blocks that wait, not those being written. An
        error of a thread is raised, unless another is on its way already.
        """
        try:
            self._join()
        except KeyboardInterrupt:
            self._is_abandoned.set()
            self._join()
            raise
        if self._error is not None and err is None:
            raise self._error

    def _is_queued(self, block: FinishedBlock | None) -> bool:
        """Wait briefly for room in the queue; after an error there is none."""
        if self._error is not None:
            return False
        with contextlib.suppress(queue.Full):
            self._queue.put(block, timeout=self._pace.tick_s)
            return True
        return False

    def _join(self) -> None:
        for _ in self._writing:
            while not (self._is_abandoned.is_set() or self._is_queued(None) or self._error):
                pass
        for thread in self._writing:
            thread.join()
        self._are_written.set()
        self._committing.join()

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as err:  # handed to the thread that computes
                self._error = self._error or err

        return threading.Thread(target=run, name="featcache-writer", daemon=True)

    def _write(self) -> None:
        while not self._is_abandoned.is_set() and self._error is None:
            try:
                finished = self._queue.get(timeout=self._pace.tick_s)
            except queue.Empty:
                continue
            if finished is None:
                return
            self._writer.write_block(*finished)

    def _commit(self) -> None:
        """Acknowledge now and then what is written, and at the end the rest."""
        while not self._are_written.wait(self._pace.commit_s):
            self._writer.commit(self._numerics)
        self._writer.commit(self._numerics)
