import numpy as np
import numpy.typing as npt

from featcache.store.identity import NumericClass
from featcache.store.ledger import SLOT_BYTES, Slot, numeric_class_id, pack_slot, unpack_slots

SLOT = Slot(bytes(range(32)), b"numerics")


def ledger_of(*slots: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(slots), np.uint8).reshape(-1, SLOT_BYTES)


def test_a_slot_is_64_bytes() -> None:
    assert len(pack_slot(3, SLOT, 128)) == SLOT_BYTES == 64


def test_a_slot_is_read_back_by_its_number() -> None:
    ledger = ledger_of(bytes(64), pack_slot(1, SLOT, 128))

    slots, damaged = unpack_slots(ledger)

    assert slots == {1: SLOT}
    assert damaged == []


def test_a_slot_with_any_bit_flipped_is_damaged() -> None:
    good = pack_slot(0, SLOT, 128)

    for bit in range(8 * SLOT_BYTES):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        slots, damaged = unpack_slots(ledger_of(bytes(flipped)))

        assert (slots, damaged) == ({}, [0]), bit


def test_a_slot_in_the_place_of_another_is_damaged() -> None:
    ledger = ledger_of(pack_slot(1, SLOT, 128), pack_slot(0, SLOT, 128))

    slots, damaged = unpack_slots(ledger)

    assert (slots, damaged) == ({}, [0, 1])


def test_a_slot_written_by_half_is_damaged() -> None:
    torn = pack_slot(0, SLOT, 128)[:32] + bytes(32)

    slots, damaged = unpack_slots(ledger_of(torn))

    assert (slots, damaged) == ({}, [0])


def test_the_id_of_a_numeric_class_ignores_the_order_of_its_fields() -> None:
    first = numeric_class_id(NumericClass.from_json({"device": "cpu", "batch_size": 64}))
    second = numeric_class_id(NumericClass.from_json({"batch_size": 64, "device": "cpu"}))
    other = numeric_class_id(NumericClass.from_json({"batch_size": 32, "device": "cpu"}))

    assert first == second != other
    assert len(first) == 8
