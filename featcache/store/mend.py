"""Mend what is damaged outside the rows: manifest, ledger, HDF5's own bytes; proved by digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from featcache.errors import CorruptError, FeatcacheError
from featcache.store.digest import block_digest, skeleton_digest, statistics_digest
from featcache.store.files import named_failures, read_at, write_at
from featcache.store.format import HEADER_LENGTH, MANIFEST_OFFSET, Manifest
from featcache.store.ledger import (
    SKELETON_SLOT,
    SLOT_BYTES,
    STATISTICS_SLOT,
    Slot,
    numeric_class_id,
    pack_slot,
    unpack_slots,
)
from featcache.store.parse import MANIFEST_LIMIT, parse_header, parse_manifest
from featcache.store.reader import open_readonly, read_ledger
from featcache.store.skeleton import FilePlan, SplitPlan, skeleton_parts

T = TypeVar("T")
_CHUNK = 4 << 20
_TRIED_BYTES = 64 << 10  # each bit of so long a manifest is tried within a minute


def mend_structure(path: Path) -> list[str]:
    """Put right what is damaged outside the rows; the caller holds the cache's lock.

    A manifest or a ledger slot with one wrong bit is found by trying each; a digest of its own says
    which is right. HDF5's bytes are made anew, as they were made at first. A slot that cannot be
    mended is emptied, so that its block counts as not written. No row is touched.

    Returns:
        What was mended, a phrase each; empty if nothing was damaged.

    Raises:
        CorruptError: If that is not enough; nothing was changed.
        StorageError: If the file cannot be written.
    """
    os.close(open_readonly(path))  # refuses what is no regular file
    with named_failures(path, kept="What was mended so far stays."):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            manifest, mended = _mend_manifest(fd, path)
            mended += _mend_ledger(fd, manifest)
            mended += _mend_skeleton(fd, manifest, path)
            if mended:
                os.fsync(fd)
        except EOFError as err:
            raise CorruptError(f"{path} became shorter while it was mended: {err}.") from err
        finally:
            os.close(fd)
    return mended


def _mend_manifest(fd: int, path: Path) -> tuple[Manifest, list[str]]:
    size = os.fstat(fd).st_size
    room = os.pread(fd, MANIFEST_LIMIT + HEADER_LENGTH, MANIFEST_OFFSET)

    def read(raw: bytes) -> Manifest:
        length, sha256 = parse_header(raw[:HEADER_LENGTH], name=path.name)
        body = raw[HEADER_LENGTH : HEADER_LENGTH + length]
        # The cheap part of a check first.
        if len(body) != length or hashlib.sha256(body).hexdigest() != sha256:
            raise CorruptError(path.name)
        return parse_manifest(body, sha256=sha256, file_size=size, name=path.name)

    try:
        return read(room), []
    except FeatcacheError:
        pass
    found = _one_bit_right(room[: _manifest_end(room, path.name)], read)
    if found is None:
        raise CorruptError(
            f"{path}: the manifest is damaged, or the file is no featcache cache of its length. "
            f"Nothing was changed. Copy it again from its source, or remove it and extract again."
        )
    right, manifest = found
    write_at(fd, right, MANIFEST_OFFSET)
    return manifest, ["a bit of the manifest"]


def _manifest_end(room: bytes, name: str) -> int:
    """Find where the manifest's JSON ends: where its header says, or at the zeros behind it."""
    try:
        end = HEADER_LENGTH + parse_header(room[:HEADER_LENGTH], name=name)[0]
    except FeatcacheError:
        end = HEADER_LENGTH
    zeros = room.find(b"\0", HEADER_LENGTH)
    return min(max(end, zeros), HEADER_LENGTH + _TRIED_BYTES)


def _mend_ledger(fd: int, manifest: Manifest) -> list[str]:
    mended = []
    raw = read_ledger(fd, manifest).tobytes()
    for number in unpack_slots(read_ledger(fd, manifest))[1]:
        inside = slice(number * SLOT_BYTES, (number + 1) * SLOT_BYTES)

        def read(candidate: bytes, number: int = number) -> Slot:
            ledger = np.zeros(manifest.ledger.shape, np.uint8)
            ledger[number] = np.frombuffer(candidate, np.uint8)
            return unpack_slots(ledger)[0][number]

        found = _one_bit_right(raw[inside], read)
        if found is not None and found[1].sha256 == _digest_of(fd, manifest, number):
            right, what = found[0], f"a bit of ledger slot {number}"
        else:
            right, what = bytes(SLOT_BYTES), f"ledger slot {number}, emptied"
        write_at(fd, right, manifest.ledger.offset + inside.start)
        mended.append(what)
    return mended


def _digest_of(fd: int, manifest: Manifest, number: int) -> bytes | None:
    """Digest what a slot acknowledges; None for the skeleton, which is compared later."""
    if number == SKELETON_SLOT:
        return skeleton_digest(fd, manifest)
    if number == STATISTICS_SLOT and manifest.statistics is not None:
        return statistics_digest(fd, manifest)
    [block] = [block for block in manifest.blocks() if block.slot == number]
    return block_digest(fd, manifest, block)


def _mend_skeleton(fd: int, manifest: Manifest, path: Path) -> list[str]:
    slot = unpack_slots(read_ledger(fd, manifest))[0].get(SKELETON_SLOT)
    if slot is not None and slot.sha256 == skeleton_digest(fd, manifest):
        return []
    made, parts = skeleton_parts(_plan_of(manifest))
    if made != manifest:
        raise CorruptError(
            f"{path}: HDF5's own bytes are damaged, and this version of HDF5 lays such a file out "
            f"otherwise. Nothing was changed. Copy it again from its source, or remove it and "
            f"extract again."
        )
    parts.append((MANIFEST_OFFSET, manifest.to_bytes()))
    for offset, nbytes in manifest.skeleton_extents():
        for start in range(offset, offset + nbytes, _CHUNK):
            right = bytearray(min(_CHUNK, offset + nbytes - start))
            for place, content in parts:
                _lay_over(right, start, content, place)
            if right != read_at(fd, len(right), start):
                write_at(fd, memoryview(right), start)
    digest = skeleton_digest(fd, manifest)
    if slot is not None and slot.sha256 != digest:
        raise CorruptError(
            f"{path}: HDF5's own bytes are damaged beyond mending. Copy it again from its source, "
            f"or remove it and extract again."
        )
    if slot is None:
        own = Slot(digest, numeric_class_id(manifest.numerics))
        write_at(fd, pack_slot(SKELETON_SLOT, own, 0), manifest.ledger.offset)
    return ["HDF5's own bytes"]


def _lay_over(content: bytearray, start: int, other: bytes, other_start: int) -> None:
    """Copy the part of `other` that falls into `content`; both begin at a byte of the file."""
    first = max(start, other_start)
    last = min(start + len(content), other_start + len(other))
    if first < last:
        content[first - start : last - start] = other[first - other_start : last - other_start]


def _plan_of(manifest: Manifest) -> FilePlan:
    """The plan that such a file is made from."""
    splits = {}
    for name, layout in manifest.splits.items():
        features = layout.columns["features"]
        splits[name] = SplitPlan(
            n_rows=layout.n_rows,
            feature_shape=features.shape[1:],
            feature_dtype=features.dtype,
            id_nbytes=layout.columns["ids"].row_nbytes,
            has_reasons="reason" in layout.columns,
        )
    return FilePlan(
        identity=manifest.identity,
        numerics=manifest.numerics,
        provenance=manifest.provenance,
        class_names=manifest.class_names,
        rows_per_block=manifest.rows_per_block,
        splits=splits,
        statistics=None if manifest.statistics is None else manifest.statistics.entries,
    )


def _one_bit_right(raw: bytes, read: Callable[[bytes], T]) -> tuple[bytes, T] | None:
    """Find the one bit that makes `raw` readable: (the bytes put right, what they say)."""
    for candidate in _one_bit_apart(raw):
        try:
            return bytes(candidate), read(bytes(candidate))
        except (FeatcacheError, LookupError):
            continue
    return None


def _one_bit_apart(raw: bytes) -> Iterator[bytearray]:
    candidate = bytearray(raw)
    for i in range(8 * len(raw)):
        candidate[i // 8] ^= 1 << i % 8
        yield candidate
        candidate[i // 8] ^= 1 << i % 8
