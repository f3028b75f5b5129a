"""What a leader hears from its workers."""

from __future__ import annotations

from torch.distributed import Store  # type: ignore[attr-defined]  # named in no __all__

from featcache.core.reporting import NoteCallback
from featcache.core.workers.messages import FAILED, N_NOTES, REFUSED, note_key, read_error

MOST_TRIES = 3
"""So often workers may die over one piece of work, or before they get anywhere."""


class Hearing:
    """Listens to the store that workers share."""

    def __init__(self, store: Store, on_note: NoteCallback) -> None:
        self._store = store
        self._on_note = on_note
        self._n_notes = 0
        self._awaited: list[int] = []
        self._told = set[str]()

    def tell_notes(self) -> None:
        """Tell what the workers tell, each sentence once."""
        n_notes = self._store.add(N_NOTES, 0)
        awaited = [*self._awaited, *range(self._n_notes + 1, n_notes + 1)]
        self._n_notes = n_notes
        # A note is set a moment after it is counted; never, if its worker was killed in between.
        self._awaited = [number for number in awaited if not self._tell_if_set(note_key(number))]

    def require_no_refusal(self) -> None:
        """Raise what a worker refused, as it would have raised it here.

        Raises:
            FeatcacheError: If one did.
        """
        if self._store.check([REFUSED]):
            raise read_error(self._store.get(REFUSED))

    def numbers(self, key: str) -> list[int]:
        """Read the numbers below a key, each followed by a comma; none where it is not there."""
        written = self._store.get(key).decode() if self._store.check([key]) else ""
        return [int(number) for number in written.split(",") if number]

    def _tell_if_set(self, key: str) -> bool:
        if not self._store.check([key]):
            return False
        sentence = self._store.get(key).decode(errors="replace")
        if sentence not in self._told:  # by another worker
            self._told.add(sentence)
            self._on_note(sentence)
        return True

    @property
    def why_one_failed(self) -> str:
        """What a worker said when it failed, in brackets; empty if it said nothing."""
        if not self._store.check([FAILED]):
            return ""
        why = self._store.get(FAILED).decode(errors="replace")
        return f" ({why})"
