"""What a run tells while it works: its choices with their reasons. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

NOT_DECODED_HERE = "not decoded here: "
"""The reason of a row begins so if this machine could not decode its image but another may."""


class Choice(NamedTuple, Generic[T]):
    """A value that was chosen for the user, and why."""

    value: T
    why: str

    @property
    def told(self) -> str:
        """As a note tells it."""
        return f"{self.value}: {self.why}"

    @property
    def recorded(self) -> str:
        """As a result records it."""
        return f"{self.value} ({self.why})"


NoteCallback = Callable[[str], None]
"""Told a sentence for each choice that was made."""


def silent(_: object) -> None:
    """Tell nobody; where no callback was given."""
