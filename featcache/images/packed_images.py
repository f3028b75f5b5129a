"""Images of which many lie in one file: an archive, or a table."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from featcache.images.checked_images import UNREADABLE, CheckedImages
from featcache.images.headers import header_reader
from featcache.images.splits import Look
from featcache.images.stat_index import KnownFiles


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedImages(CheckedImages):
    """Images in files that hold many; while such a file is as it was, none is read again."""

    @property
    @abstractmethod
    def packs(self) -> Sequence[str]:
        """The absolute paths of these files."""

    @abstractmethod
    def place_of(self, row: int) -> tuple[int, str]:
        """Say in which of them one image lies, and what names it there."""

    def looking(self, known: KnownFiles | None) -> Callable[[int], Look]:
        """Give what looks at one row, or at the stat of the file that it is in."""
        if known is None:
            return self.look
        indexes = [known.below(pack) for pack in self.packs]
        reader = header_reader(self.rules)

        def look(row: int) -> Look:
            number, name = self.place_of(row)
            try:
                status = os.stat(self.packs[number])  # noqa: PTH116 - as for files of their own
            except OSError:
                return self.look(row)  # which says why
            seen = indexes[number].known(name, status, reader=reader)
            if seen is None:
                seen = self.look(row)
                if seen.digest != UNREADABLE:
                    indexes[number].add(name, status, seen, reader=reader)
            return seen

        return look
