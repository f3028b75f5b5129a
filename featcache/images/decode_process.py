"""What one decoding process does: its tasks, where it puts images, and what ends it."""

from __future__ import annotations

import mmap
import os
import signal
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.core.parent_process import end_with
from featcache.images.decode import forget_other_threads
from featcache.images.decode_batches import OUT_OF_MEMORY, Decoder, Portion

CPU_SECONDS_PER_IMAGE = 60.0
NO_ROW = -1
_NO_MEMORY_EXIT = 71  # EX_OSERR of <sysexits.h>; no signal, and no exit code of Python's own


class Task(NamedTuple):
    """A portion to decode.

    Attributes:
        number: Its place in the order of portions.
        portion: Its rows and views.
        slot: Where its images go.
        given_up: Rows that are not to be tried, with the reason.
    """

    number: int
    portion: Portion
    slot: int
    given_up: Mapping[int, str]


class Done(NamedTuple):
    """What became of a task: the reasons of its unreadable rows, or what it raised."""

    number: int
    reasons: Mapping[int, str]
    error: Exception | None = None


class Shared:
    """Memory that all processes see: slots for batches, and the row that each worker is at.

    Not /dev/shm, which containers often limit to 64 MB: anonymous memory, which a fork shares.
    """

    def __init__(
        self, context: BaseContext, n_slots: int, shape: tuple[int, ...], n_seats: int
    ) -> None:
        n_images = n_slots * int(np.prod(shape))
        self.shape = (n_slots, *shape)
        # The rows first: their eight bytes are aligned there.
        nbytes = 8 * n_seats + n_images
        self.n_seats = n_seats
        is_forked = context.get_start_method() == "fork"
        self.memory: Any = mmap.mmap(-1, nbytes) if is_forked else context.RawArray("B", nbytes)

    def rows(self) -> npt.NDArray[np.int64]:
        """(n_seats,) the row of the split that each worker began last."""
        return np.frombuffer(self.memory, np.int64, self.n_seats)

    def images(self) -> npt.NDArray[np.uint8]:
        """(n_slots, V, B, H, W, 3) uint8."""
        flat = np.frombuffer(self.memory, np.uint8, offset=8 * self.n_seats)
        return flat.reshape(self.shape)


def work(decoder: Decoder, shared: Shared, seat: int, pipe: Connection, parent: int) -> None:
    """Decode what comes through the pipe, until it ends."""
    _begin_work(parent)
    rows, slots = shared.rows(), shared.images()

    def begin(row: int) -> None:
        rows[seat] = row
        # At its end the signal ends the process, also in the midst of a C library.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS_PER_IMAGE)

    def no_memory(row: int) -> str:
        os._exit(_NO_MEMORY_EXIT)

    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, OSError):  # the parent has ended
            return
        span, views = task.portion
        images = slots[task.slot, : len(views), : span.stop - span.start]
        reasons: Mapping[int, str] = {}
        error = None
        try:
            reasons = decoder.fill(
                images, task.portion, given_up=task.given_up, begin=begin, no_memory=no_memory
            )
        except Exception as err:  # raised in the parent, when its batch is wanted
            err.add_note("".join(traceback.format_exception(err)))
            error = err
        signal.setitimer(signal.ITIMER_PROF, 0)
        rows[seat] = NO_ROW
        pipe.send(Done(task.number, reasons, error))


def _begin_work(parent: int) -> None:
    """Leave signals to the parent, die when it dies, and forget the locks of its threads.

    Ctrl-C and a closed terminal reach the whole process group. A worker that died of them before
    the parent stops would look like a crash.
    """
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    for name in ("SIGTERM", "SIGPROF"):  # a handler of the parent's has no business here
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    forget_other_threads()
    end_with(parent)  # else the worker of a parent that was killed waits for work for ever


def how_it_ended(exitcode: int | None) -> str:
    """Say in a few words why a process is dead; a reason has room for 80 bytes."""
    if exitcode == -signal.SIGPROF:
        return f"more than {CPU_SECONDS_PER_IMAGE:g} CPU seconds"
    if exitcode == _NO_MEMORY_EXIT:
        return OUT_OF_MEMORY
    if exitcode == -signal.SIGKILL:
        return "the process was killed by signal 9, as where memory is short"
    if exitcode is not None and exitcode < 0:
        return f"the process was killed by signal {-exitcode}"
    return f"the process ended with exit code {exitcode}"
