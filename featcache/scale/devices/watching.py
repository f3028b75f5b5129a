"""What the leader sees of its workers: the ledger, and what they leave in the store."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from torch.distributed import Store  # type: ignore[attr-defined]  # named in no __all__

from featcache.core.reporting import NoteCallback
from featcache.core.stopping import stop_if_asked
from featcache.core.workers.hearing import MOST_TRIES, Hearing
from featcache.core.workers.messages import claimed_key
from featcache.errors import DeviceError
from featcache.extraction.job import Job
from featcache.extraction.progress import Progress
from featcache.scale.devices.work import phases_key
from featcache.store import Block, CacheWriter

_TELLS_EVERY_S = 1.0
_LEAST_PAUSES = 20  # times what it takes to read the ledger
_SHOWN_BLOCKS = 4


class Watch:
    """Listens to the workers of one file, and decides when to give up."""

    def __init__(
        self,
        job: Job,
        writer: CacheWriter,
        store: Store,
        *,
        n_workers: int,
        on_note: NoteCallback,
    ) -> None:
        self._job = job
        self._writer = writer
        self._store = store
        self._n_workers = n_workers
        self._on_note = on_note
        self._heard = Hearing(store, on_note)
        self._blocks = writer.manifest.blocks()
        self._tries = Counter[int]()
        self._n_starts = 0
        self._n_starts_in_vain = 0
        self._n_pending = len(writer.pending())
        self._rows_before = self._n_rows_done()
        self._began_s = 0.0  # when the first block was claimed; 0 before that
        self._tells_at_s = 0.0

    def before_start(self) -> None:
        """See why the workers must be started again, if it is not the first time.

        Raises:
            DeviceError: If it leads nowhere.
            FeatcacheError: If a worker has refused.
        """
        stop_if_asked()
        if self._n_starts:
            self._heard.require_no_refusal()
            self._writer.refresh()
            pending = self._writer.pending()
            is_in_vain = len(pending) == self._n_pending
            self._n_starts_in_vain = self._n_starts_in_vain + 1 if is_in_vain else 0
            self._n_pending = len(pending)
            self._require_hope(pending)
            why = self._heard.why_one_failed
            self._on_note(f"a worker ended{why}; all are started again, and go on")
        self._n_starts += 1

    def look(self) -> None:
        """Tell what the workers tell, and how far they are; stop if that is asked for."""
        stop_if_asked()
        self._heard.tell_notes()
        if not self._began_s and self._store.check([claimed_key(self._n_starts - 1)]):
            self._began_s = time.perf_counter()
        if self._began_s and time.perf_counter() >= self._tells_at_s:
            self._tell_progress()

    def finish(self) -> None:
        """Tell what the workers told at their end; raise what one refused, as if it were here.

        Raises:
            FeatcacheError: If one did.
        """
        self._heard.tell_notes()
        self._heard.require_no_refusal()

    def seconds(self) -> float:
        """Give the wall time since the first block was claimed, starts after that included."""
        return time.perf_counter() - self._began_s if self._began_s else 0.0

    def phases(self) -> Mapping[str, float]:
        """Give the seconds of a worker by phase: the mean of those that came to the end."""
        total = Counter[str]()
        for rank in range(self._n_workers):
            key = phases_key(self._n_starts - 1, rank)
            if self._store.check([key]):
                total.update(json.loads(self._store.get(key)))
        return {phase: seconds / self._n_workers for phase, seconds in total.items()}

    def _require_hope(self, pending: Iterable[Block]) -> None:
        """Give up if workers die before they get anywhere, or three times over one block."""
        lost = {block.slot: block for block in pending}
        slots = self._heard.numbers(claimed_key(self._n_starts - 1))
        self._tries.update(slot for slot in slots if slot in lost)
        tried = [block for slot, block in sorted(lost.items()) if self._tries[slot] >= MOST_TRIES]
        why = self._heard.why_one_failed
        if tried:
            rows = ", ".join(f"{b.split} {b.start} to {b.stop - 1}" for b in tried[:_SHOWN_BLOCKS])
            more = f" and {n} more blocks" if (n := len(tried) - _SHOWN_BLOCKS) > 0 else ""
            raise DeviceError(
                f"Workers ended{why} {MOST_TRIES} times while they computed rows {rows}{more}. "
                f"{self._kept()} An image among these rows may end the process that decodes it, "
                f"or memory is short. Look at these images, or run the same command with fewer "
                f"devices."
            )
        if self._n_starts_in_vain >= MOST_TRIES:
            raise DeviceError(
                f"Workers ended{why} {MOST_TRIES} times before they had computed a row. "
                f"{self._kept()} Memory may be short for so many. Run the same command with fewer "
                f"devices, or on one (--device)."
            )

    def _kept(self) -> str:
        n_done, n_all = self._n_rows_done(), sum(b.stop - b.start for b in self._blocks)
        return f"{n_done} of {n_all} rows are kept in {self._writer.file}."

    def _n_rows_done(self) -> int:
        return sum(block.stop - block.start for block in self._writer.acknowledged())

    def _tell_progress(self) -> None:
        began_s = time.perf_counter()
        self._writer.refresh()
        pending = self._writer.pending()
        n_left = sum(block.stop - block.start for block in pending)
        n_new = self._n_rows_done() - self._rows_before
        split = pending[0].split if pending else self._blocks[-1].split
        n_total = self._writer.manifest.splits[split].n_rows
        n_left_of_split = sum(b.stop - b.start for b in pending if b.split == split)
        rate = n_new / max(1e-9, began_s - self._began_s)
        self._job.on_progress(
            Progress(
                stage="extract",
                split=split,
                n_done=n_total - n_left_of_split,
                n_total=n_total,
                images_per_s=rate,
                left_s=n_left / rate if rate else 0.0,
            )
        )
        now_s = time.perf_counter()
        self._tells_at_s = now_s + max(_TELLS_EVERY_S, _LEAST_PAUSES * (now_s - began_s))
