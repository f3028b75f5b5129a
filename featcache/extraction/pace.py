"""How large the portions of a run are.

They change no feature, so no option sets them. Tests set small ones with `at_pace`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from featcache.store import rows_per_block


class BlockSize(Protocol):
    """Chooses the rows of a block, as `featcache.store.rows_per_block` does."""

    def __call__(self, row_nbytes: int, batch_size: int, *, gflop: float) -> int:
        """Choose by a row's bytes, the rows of a batch and the work for one image."""
        ...


@dataclass(frozen=True)
class Pace:
    """The portions of a run.

    Attributes:
        rows_per_block: Chooses the rows of a block of a new file; a partial file keeps its own.
        pixels_batch_size: Images in a batch where no network runs.
        n_ahead: Batches in flight beyond the one whose rows are taken; None takes what the device
            needs.
        commit_s: Seconds between two commits. One costs two syncs, whatever it acknowledges; a kill
            loses the blocks written since the last commit, and those in the queue.
        n_queued: Finished blocks that wait for the disk.
        tick_s: Seconds after which a thread that waits looks whether it is to stop.
    """

    rows_per_block: BlockSize = rows_per_block
    pixels_batch_size: int = 64
    n_ahead: int | None = None
    commit_s: float = 0.5
    n_queued: int = 4
    tick_s: float = 0.1


USUAL = Pace()
_CURRENT: ContextVar[Pace] = ContextVar("featcache.extraction.pace", default=USUAL)


@contextlib.contextmanager
def at_pace(pace: Pace) -> Iterator[None]:
    """Hand in a pace for the runs that this thread begins inside."""
    token = _CURRENT.set(pace)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_pace() -> Pace:
    """The pace that was handed in, or the usual one."""
    return _CURRENT.get()
