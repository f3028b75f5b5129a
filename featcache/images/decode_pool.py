"""Processes that decode batches.

If a process dies at an image, its batch is tried again with no other process beside it. If that
one dies too, the image is named.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import numpy as np

from featcache.core.process_wide import warnings_ignored
from featcache.core.reporting import NoteCallback
from featcache.core.starting import starting
from featcache.core.stopping import stop_if_asked
from featcache.errors import DeviceError
from featcache.images.decode import image_formats
from featcache.images.decode_batches import Decoder, ImageBatch, Portion
from featcache.images.decode_process import NO_ROW, Done, Shared, Task, how_it_ended, work

_SLOTS_PER_WORKER = 4
_MOST_SLOT_BYTES = 1 << 30
_TASKS_PER_WORKER = 2  # one in work, one behind it while the parent is in the backbone
_LOOKS_EVERY_S = 0.2
_LEAVES_WITHIN_S = 2.0


class _Victim(NamedTuple):
    """A task of a dead worker, the row that it was at, and why it died.

    Row and reason are `NO_ROW` and "" if the task was not begun.
    """

    task: Task
    row: int
    why: str


@dataclass(eq=False)
class _Worker:
    """A process, this end of its pipe, the tasks that it has, and where it says its row."""

    process: BaseProcess
    pipe: Connection
    seat: int
    tasks: deque[Task] = field(default_factory=deque)


class Workers:
    """Decoding processes. At the end of its `with` block none is left.

    Images travel through shared memory. Only the reasons of unreadable ones go through pipes.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        n_workers: int,
        batch_size: int,
        n_views: int = 1,
        on_note: NoteCallback,
    ) -> None:
        """Prepare; the processes start with the first batch.

        Args:
            decoder: What they do.
            n_workers: How many.
            batch_size: Images of the longest portion.
            n_views: Views of the portion with the most.
            on_note: Told when an image was tried again alone.
        """
        # Forked workers start in milliseconds and only run PIL; elsewhere the platform's own way.
        image_formats()  # imports PIL's plugins, once instead of once in each of them
        self._context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        self._decoder = decoder
        self._n_workers = n_workers
        self._on_note = on_note
        shape = (n_views, batch_size, *decoder.preprocess.out_size, 3)
        most = _MOST_SLOT_BYTES // int(np.prod(shape))
        n_slots = max(n_workers + 1, min(_SLOTS_PER_WORKER * n_workers, most))
        self._shared = Shared(self._context, n_slots, shape, n_workers)
        self._free_slots = deque(range(n_slots))
        self._workers: list[_Worker] = []
        self._done: dict[int, tuple[Task, Done]] = {}
        self._victims: list[_Victim] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def batches(self, portions: Iterable[Portion]) -> Generator[ImageBatch, None, None]:
        """Yield the batches of `portions`, in order, one for each view.

        Each portion is asked for when there is room for it.

        Raises:
            DeviceError: If a process dies at an image, or needs more than 60 CPU seconds for it,
                and again when it does nothing else; unless such images may be left out.
        """
        coming = enumerate(portions)
        n_given = self._hand_out(coming)
        number = 0
        while number < n_given:
            while number not in self._done:
                self._collect()
                if self._victims:
                    self._try_alone()
                n_given += self._hand_out(coming)
            yield from self._take(number)
            number += 1
            self._collect(timeout_s=0)
            n_given += self._hand_out(coming)

    def _hand_out(self, coming: Iterator[tuple[int, Portion]]) -> int:
        """Give every worker enough to do, as long as there is room for the images.

        Returns:
            How many portions it gave.
        """
        n_given = 0
        while self._free_slots and not self._victims:
            least = min((len(worker.tasks) for worker in self._workers), default=0)
            is_idle = len(self._workers) < self._n_workers or least < _TASKS_PER_WORKER
            task = next(coming, None) if is_idle else None
            if task is None:
                break
            if len(self._workers) < self._n_workers:
                self._workers.append(self._start(len(self._workers)))
            worker = min(self._workers, key=lambda worker: len(worker.tasks))
            self._give(worker, Task(*task, self._free_slots.popleft(), {}))
            n_given += 1
        return n_given

    def _give(self, worker: _Worker, task: Task) -> None:
        worker.tasks.append(task)
        try:
            worker.pipe.send(task)
        except OSError:  # it is dead; `_collect` finds that out
            return

    def _collect(self, *, timeout_s: float = _LOOKS_EVERY_S) -> None:
        """Wait until a worker says something or is dead. Nothing else here waits."""
        busy = [worker for worker in self._workers if worker.tasks]
        ready = wait([worker.pipe for worker in busy], timeout=timeout_s)
        stop_if_asked()
        for worker in busy:
            if worker.pipe in ready:
                self._hear(worker)

    def _hear(self, worker: _Worker) -> None:
        try:
            while worker.tasks and worker.pipe.poll():
                done: Done = worker.pipe.recv()
                self._done[done.number] = (worker.tasks.popleft(), done)
        except (EOFError, OSError):
            self._bury(worker)

    def _take(self, number: int) -> list[ImageBatch]:
        task, done = self._done.pop(number)
        if done.error is not None:
            raise done.error
        span, views = task.portion
        images = self._shared.images()[task.slot, : len(views), : span.stop - span.start].copy()
        self._free_slots.append(task.slot)
        return [ImageBatch(span, images[i], done.reasons, view) for i, view in enumerate(views)]

    def _bury(self, worker: _Worker) -> None:
        """Note the image that a dead worker was at, and take its tasks back."""
        self._workers.remove(worker)
        worker.process.join(_LEAVES_WITHIN_S)
        row = int(self._shared.rows()[worker.seat])
        first, *others = worker.tasks
        self._victims.append(_Victim(first, row, how_it_ended(worker.process.exitcode)))
        self._victims += [_Victim(task, NO_ROW, "") for task in others]
        worker.pipe.close()

    def _try_alone(self) -> None:
        """Decode what a dead worker had, while no other works.

        If that succeeds, memory was short, and one process fewer goes on.
        """
        while any(worker.tasks for worker in self._workers):
            self._collect()
        self._stop()
        victims, self._victims = self._victims, []
        were_decoded = [self._decode_alone(victim.task) for victim in victims]
        for _, row, why in victims:
            if row != NO_ROW:
                self._on_note(
                    f"{self._decoder.images.path_of(row)}: a decoding process ended at it ({why}); "
                    f"it was tried again alone"
                )
        if all(were_decoded) and self._n_workers > 1:
            self._n_workers -= 1
            self._on_note(f"decoding processes from here on: {self._n_workers}")

    def _decode_alone(self, task: Task) -> bool:
        """Decode a batch in a process that has nothing beside it, again for each row given up.

        Returns:
            Whether all its rows were decoded, as far as they are images.
        """
        while task.number not in self._done:
            worker = self._start(0)
            self._workers.append(worker)
            self._give(worker, task)
            while worker.tasks and worker in self._workers:
                self._collect()
            for _, row, why in self._victims:
                if row == NO_ROW:
                    raise DeviceError(
                        f"A process that decodes images ended before its first one: {why}. All "
                        f"acknowledged rows are kept; the same command goes on from there."
                    )
                reason = self._decoder.give_up(row, why)
                task = task._replace(given_up={**task.given_up, row: reason})
            self._victims = []
        self._stop()
        return not task.given_up

    def _start(self, seat: int) -> _Worker:
        self._shared.rows()[seat] = NO_ROW
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work,
            args=(self._decoder, self._shared, seat, theirs, os.getpid()),
            name=f"featcache-decoder-{seat}",
            daemon=True,
        )
        try:
            # Python 3.12 warns of any fork beside threads; these children never touch torch.
            with (
                warnings_ignored(DeprecationWarning),
                starting(
                    "A process that decodes images",
                    kept="All acknowledged rows are kept.",
                    way_out="With --n-workers 0 none is needed.",
                ),
            ):
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()  # else the death of the child would not end the pipe
        return _Worker(process, ours, seat)

    def _stop(self) -> None:
        """Kill all processes. None of them holds anything that could be lost."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join(_LEAVES_WITHIN_S)
            worker.pipe.close()
        self._workers = []
