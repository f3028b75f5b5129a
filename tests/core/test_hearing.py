"""What a leader hears of its workers' notes."""

from __future__ import annotations

from datetime import timedelta

from torch.distributed import HashStore  # type: ignore[attr-defined]

from featcache.core.workers.hearing import Hearing
from featcache.core.workers.messages import N_NOTES, note_key
from featcache.core.workers.worker import tell


def test_a_note_that_is_counted_and_not_yet_set_is_told_at_a_later_look() -> None:
    store, notes = HashStore(), list[str]()
    store.set_timeout(timedelta(milliseconds=50))
    heard = Hearing(store, notes.append)
    late = store.add(N_NOTES, 1)  # a worker that is killed now never sets it
    tell(store, "of another worker")

    heard.tell_notes()
    assert notes == ["of another worker"]

    store.set(note_key(late), "late")
    heard.tell_notes()
    heard.tell_notes()
    assert notes == ["of another worker", "late"]
