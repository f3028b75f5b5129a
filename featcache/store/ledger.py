"""The ledger: one fixed slot per block, which acknowledges its bytes."""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.core.identity import canonical_json
from featcache.store.identity import NumericClass

_SLOT = struct.Struct("<8sQ32s8sII")
_SLOT_MAGIC = b"fcslot01"
SLOT_BYTES = _SLOT.size
SKELETON_SLOT = 0


class Slot(NamedTuple):
    """A good ledger slot."""

    sha256: bytes
    numeric_id: bytes


def pack_slot(number: int, slot: Slot, n_rows: int) -> bytes:
    """Write one ledger slot: the acknowledgement of a block of `n_rows` rows."""
    head = _SLOT.pack(_SLOT_MAGIC, number, slot.sha256, slot.numeric_id, n_rows, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def unpack_slots(ledger: npt.NDArray[np.uint8]) -> tuple[dict[int, Slot], list[int]]:
    """Read a ledger, (n_slots, 64).

    Returns:
        The good slots by number, and the numbers of those that are written but damaged.
    """
    slots, damaged = {}, []
    for number, raw in enumerate(bytes(row) for row in ledger):
        if any(raw):
            try:
                slots[number] = unpack_slot(number, raw)
            except ValueError:
                damaged.append(number)
    return slots, damaged


def unpack_slot(number: int, raw: bytes) -> Slot:
    """Read one slot, 64 bytes.

    Raises:
        ValueError: If it is not the good slot of this number.
    """
    magic, said, sha256, numeric_id, _, crc = _SLOT.unpack(raw)
    if magic != _SLOT_MAGIC or said != number or crc != zlib.crc32(raw[:-4]):
        raise ValueError(f"no good slot {number}")
    return Slot(sha256, numeric_id)


def numeric_class_id(numerics: NumericClass) -> bytes:
    """Shorten a numeric class to the 8 bytes that a slot holds."""
    return hashlib.sha256(canonical_json(numerics.to_json()).encode()).digest()[:8]
