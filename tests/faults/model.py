"""What a cache file should hold after all that was done to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featcache.store import read_state
from featcache.store.ledger import SKELETON_SLOT, SLOT_BYTES


class Model:
    """The bytes of an uninterrupted file, which rows are acknowledged, and the flipped bits.

    Attributes:
        stage: "none", "partial" or "complete".
        acknowledged: Slots whose rows a writer has said are safe, or left whole when it was killed.
        flips: By offset, the bits that differ from what was written.
    """

    def __init__(self, reference: Path) -> None:
        self._whole = np.frombuffer(reference.read_bytes(), np.uint8)
        manifest = read_state(reference).manifest
        self._blocks = {block.slot: block for block in manifest.blocks()}
        self._ledger = manifest.ledger.offset
        self._n_slots = manifest.n_slots
        # Of each byte: its slot (the skeleton's, if under no other), and whether it is of rows.
        self._slot = np.full(len(self._whole), SKELETON_SLOT)
        self._is_rows = np.zeros(len(self._whole), np.bool_)
        extents = [(b.slot, e) for b in manifest.blocks() for e in manifest.block_extents(b)]
        self._parts = {part.slot: name for name, part in manifest.parts.items()}
        extents += [(p.slot, (p.extent.offset, p.extent.nbytes)) for p in manifest.parts.values()]
        for slot, (offset, nbytes) in extents:
            self._slot[offset : offset + nbytes] = slot
            self._is_rows[offset : offset + nbytes] = True
        for slot in range(1, self._n_slots):
            self._slot[self._in_ledger(slot)] = slot
        self.forget()

    def forget(self) -> None:
        """There is no file any more."""
        self.stage = "none"
        self.acknowledged: set[int] = set()
        self.flips: dict[int, int] = {}

    @property
    def is_untrusted(self) -> bool:
        """Whether the file is damaged outside rows and ledger: nothing of it can be used."""
        return any(self._slot[offset] == SKELETON_SLOT for offset in self.flips)

    @property
    def is_unusable(self) -> bool:
        """Whether a complete file is refused when it is opened: its rows are not looked at."""
        return any(not self._is_rows[offset] for offset in self.flips)

    @property
    def word(self) -> str:
        """What a listing says of it; a partial file that lacks only its name is complete."""
        if self.is_unusable:
            return "damaged"
        return "complete" if len(self.acknowledged) == self._n_slots - 1 else "incomplete"

    @property
    def n_missing_blocks(self) -> int:
        """Blocks that are not written, and whose slot looks so."""
        return sum(
            slot not in self.acknowledged and slot not in self._flipped_slots()
            for slot in self._blocks
        )

    @property
    def n_readable_blocks(self) -> int:
        """Blocks that a digest can be compared with."""
        return len(self.acknowledged & self._blocks.keys() - self._flipped_slots())

    def damages(self) -> set[tuple[str, int, int]]:
        """(split, first row, last row) of all that `verify` should name."""
        places = set()
        for slot in {int(self._slot[offset]) for offset in self.flips}:
            block = self._blocks.get(slot)
            is_part = block is None
            places.add(
                (self._parts[slot], 0, 0) if is_part else (block.split, block.start, block.stop - 1)
            )
        return places

    def pick(self, kind: str, place: float) -> tuple[int, int]:
        """(offset, mask) of a bit of "rows", "ledger" or "skeleton"; `place` is 0 to 1 within."""
        ledger = ~self._is_rows & (self._slot != SKELETON_SLOT)
        kinds = {"rows": self._is_rows, "ledger": ledger, "skeleton": self._slot == SKELETON_SLOT}
        [offsets] = np.nonzero(kinds[kind])
        bit = min(int(place * len(offsets) * 8), len(offsets) * 8 - 1)
        return int(offsets[bit // 8]), 1 << bit % 8

    def flip(self, offset: int, mask: int) -> None:
        """A bit was flipped; in rows that are not written yet it does no harm."""
        if self._is_rows[offset] and self._slot[offset] not in self.acknowledged:
            return
        self.flips[offset] = self.flips.get(offset, 0) ^ mask
        if not self.flips[offset]:
            del self.flips[offset]

    def learn(self, file: Path | None, told: set[int]) -> None:
        """A writer was here: its rows count if their slots are there, and it may have mended some.

        Args:
            file: The file now.
            told: The slots that it said were safe.
        """
        if file is None:
            assert not told | self.acknowledged, "acknowledged rows are gone with their file"
            self.stage = "none"
            return
        self.stage = "partial" if file.suffix == ".partial" else "complete"
        found = np.frombuffer(file.read_bytes(), np.uint8)
        for slot in range(1, self._n_slots):
            place = self._in_ledger(slot)
            if (found[place] == self._whole[place]).all():
                self.acknowledged.add(slot)
        self.flips = {o: mask for o, mask in self.flips.items() if found[o] != self._unflipped(o)}
        assert told <= self.acknowledged, f"slots {told - self.acknowledged} were told, and are not"
        of_told = [o for o in self.flips if self._slot[o] in told]
        assert not of_told, f"told to be safe, and damaged at {of_told}"

    def require(self, file: Path | None) -> None:
        """Compare every byte of a file that can be known; rows that are not written can not."""
        if file is None:
            assert self.stage == "none", "the file is gone"
            return
        assert self.stage == ("partial" if file.suffix == ".partial" else "complete"), self.stage
        found = np.frombuffer(file.read_bytes(), np.uint8)
        assert found.shape == self._whole.shape, "the file has another size"
        wanted = self._whole.copy()
        is_missing = ~np.isin(self._slot, [SKELETON_SLOT, *self.acknowledged])
        wanted[is_missing] = 0
        for offset, mask in self.flips.items():
            wanted[offset] ^= mask
        wrong = np.flatnonzero((found != wanted) & ~(is_missing & self._is_rows))
        assert not len(wrong), f"bytes {wrong[:8]} of slots {set(self._slot[wrong])} are wrong"
        if self.stage == "complete":
            assert not is_missing.any(), "it has its final name, and is not complete"

    def _unflipped(self, offset: int) -> int:
        slot = self._slot[offset]
        is_there = slot == SKELETON_SLOT or slot in self.acknowledged
        return int(self._whole[offset]) if is_there else 0

    def _in_ledger(self, slot: int) -> slice:
        start = self._ledger + slot * SLOT_BYTES
        return slice(start, start + SLOT_BYTES)

    def _flipped_slots(self) -> set[int]:
        return {int(self._slot[o]) for o in self.flips if not self._is_rows[o]}
