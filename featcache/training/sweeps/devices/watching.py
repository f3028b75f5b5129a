"""What the leader of a sweep sees of its workers: folders, checkpoints, and what they tell."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined]  # named in no __all__

from featcache.core.reporting import NoteCallback
from featcache.core.stopping import stop_if_asked
from featcache.core.workers.hearing import MOST_TRIES, Hearing
from featcache.core.workers.messages import claimed_key
from featcache.errors import DeviceError, counted
from featcache.training.sweeps.bank_trainer import SweepProgress, SweepProgressCallback
from featcache.training.sweeps.devices.work import broken_key, progress_key, read_states
from featcache.training.sweeps.groups import HeadGroup

_TELLS_EVERY_S = 1.0
_SHOWN_HEADS = 4


class SweepWatch:
    """Listens to the workers of one sweep, and decides when to give up."""

    def __init__(
        self,
        store: Store,
        groups: Sequence[HeadGroup],
        *,
        on_progress: SweepProgressCallback,
        on_note: NoteCallback,
    ) -> None:
        self._store = store
        self._groups = {group.number: group for group in groups}
        self._on_progress = on_progress
        self._on_note = on_note
        self._heard = Hearing(store, on_note)
        self._n_heads = self._n_unfinished()
        self._tries = Counter[int]()
        self._n_starts = 0
        self._n_starts_in_vain = 0
        self._marks: dict[int, tuple[int, int]] = {}
        self._began: tuple[float, int] | None = None  # when a step was first told, and how many
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
            self._require_hope()
            why = self._heard.why_one_failed
            self._on_note(f"a worker ended{why}; all are started again, and go on")
        self._marks = {number: _mark(group) for number, group in self._groups.items()}
        self._n_starts += 1

    def look(self) -> None:
        """Tell what the workers tell, and how far they are; stop if that is asked for.

        Raises:
            FeatcacheError: If a worker has refused; the others keep their last whole epoch.
        """
        stop_if_asked()
        self._heard.require_no_refusal()
        self._heard.tell_notes()
        if time.monotonic() >= self._tells_at_s:
            self._tells_at_s = time.monotonic() + _TELLS_EVERY_S
            self._tell_progress()

    def finish(self) -> None:
        """Tell what the workers told at their end, and take over which heads broke off.

        Raises:
            FeatcacheError: If a worker has refused.
        """
        self._heard.tell_notes()
        self._heard.require_no_refusal()
        for number, group in self._groups.items():
            if self._store.check([broken_key(number)]):
                states = read_states(self._store.get(broken_key(number)))
                for entry in group.entries:
                    entry.state = states.get(entry.member.key, entry.state)

    def kept(self) -> str:
        """Say how many heads are finished, and what is there of the others."""
        n_finished = self._n_heads - self._n_unfinished()
        return (
            f"{n_finished} of {counted(self._n_heads, 'head')} finished, the others are kept as of "
            f"the last epoch that was saved."
        )

    def _require_hope(self) -> None:
        """Give up if workers die before they get anywhere, or three times over one group."""
        claimed = self._heard.numbers(claimed_key(self._n_starts - 1))
        self._n_starts_in_vain = 0 if claimed else self._n_starts_in_vain + 1
        for number in claimed:
            got_on = _mark(self._groups[number]) != self._marks[number]
            is_over = self._store.check([broken_key(number)])
            self._tries[number] = 0 if got_on or is_over else self._tries[number] + 1
        tried = [number for number, n in sorted(self._tries.items()) if n >= MOST_TRIES]
        why = self._heard.why_one_failed
        if tried:
            heads = [e.path.name for n in tried for e in self._groups[n].entries]
            shown = ", ".join(heads[:_SHOWN_HEADS])
            more = f" and {n} more" if (n := len(heads) - _SHOWN_HEADS) > 0 else ""
            raise DeviceError(
                f"Workers ended{why} {MOST_TRIES} times while they trained {shown}{more}, before "
                f"an epoch was saved. {self.kept()} Memory may be short for so many. Run the same "
                f"command with fewer devices."
            )
        if self._n_starts_in_vain >= MOST_TRIES:
            raise DeviceError(
                f"Workers ended{why} {MOST_TRIES} times before they trained a head. {self.kept()} "
                f"Memory may be short for so many. Run the same command with fewer devices, or "
                f"without --devices."
            )

    def _n_unfinished(self) -> int:
        return sum(not e.path.exists() for group in self._groups.values() for e in group.entries)

    def _tell_progress(self) -> None:
        """Sum up what the workers told of their groups; a group that is over counts whole."""
        told = {n: self._told(n) for n in self._groups}
        known = next((one for one in told.values() if one), None)
        if known is None:
            return
        over = {n for n in self._groups if self._store.check([broken_key(n)])}
        of_each = [
            known["n_total"] if n in over else one["n_done"] if one else 0
            for n, one in told.items()
        ]
        n_done, n_total = sum(of_each), known["n_total"] * len(told)
        now_s = time.monotonic()
        began_s, n_before = self._began = self._began or (now_s, n_done)
        rate = (n_done - n_before) / max(1e-9, now_s - began_s)
        losses = [one["best_val_loss"] for one in told.values() if one]
        self._on_progress(
            SweepProgress(
                n_heads=self._n_heads,
                n_finished=self._n_heads - self._n_unfinished(),
                epoch=min(known["max_epochs"] * n_done // n_total, known["max_epochs"] - 1),
                max_epochs=known["max_epochs"],
                n_done=n_done,
                n_total=n_total,
                left_s=(n_total - n_done) / rate if rate else 0.0,
                best_val_loss=min((x for x in losses if not math.isnan(x)), default=math.nan),
            )
        )

    def _told(self, number: int) -> dict[str, Any] | None:
        if not self._store.check([progress_key(number)]):
            return None
        said: dict[str, Any] = json.loads(self._store.get(progress_key(number)))
        return said


def _mark(group: HeadGroup) -> tuple[int, int]:
    """Tell two states of what is kept of a group apart."""
    try:
        saved_ns = group.checkpoint.stat().st_mtime_ns
    except OSError:
        saved_ns = 0
    return sum(entry.path.exists() for entry in group.entries), saved_ns
