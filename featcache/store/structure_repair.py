"""Mend damage outside the rows: manifest, ledger and HDF5's own bytes. Digests prove the result."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from featcache.core.files import named_failures, read_at, write_at
from featcache.core.stopping import working
from featcache.errors import CorruptError, FeatcacheError, MismatchError
from featcache.store.digest import block_digest, part_digest
from featcache.store.hdf5_file import plan_of, skeleton_parts
from featcache.store.ledger import (
    SKELETON_SLOT,
    SLOT_BYTES,
    Slot,
    numeric_class_id,
    pack_slot,
    unpack_slot,
    unpack_slots,
)
from featcache.store.manifest import HEADER_LENGTH, MANIFEST_OFFSET, Manifest
from featcache.store.manifest_parser import MANIFEST_LIMIT, parse_header, parse_manifest
from featcache.store.reader import open_readonly, open_regular

T = TypeVar("T")
_CHUNK = 4 << 20
_TRIED_BYTES = 64 << 10  # each bit of so long a manifest is tried within a minute


def mend_structure(path: Path) -> list[str]:
    """Put right what is damaged outside the rows; the caller holds the cache's lock.

    If one bit of the manifest or of a ledger slot is wrong, each bit is tried until its digest
    fits. HDF5's bytes are made anew, as they were made at first. A slot that cannot be mended is
    emptied, so its block counts as not written. No row is changed.

    Returns:
        What was mended, a phrase each; empty if nothing was damaged.

    Raises:
        CorruptError: If that is not enough; nothing was changed.
        StorageError: If the file cannot be written.
    """
    os.close(open_readonly(path))  # a cache that is not there is missing, no failure to write
    with named_failures(path, kept="What it was is there, or what is right."):
        fd = open_regular(path, os.O_RDWR)
        try:
            file = _Overlaid(fd)
            manifest, mended = _mend_manifest(file, path)
            mended += _mend_ledger(file, manifest)
            mended += _mend_skeleton(file, manifest, path)
            with working():
                for offset, content in file.changes:
                    write_at(fd, content, offset)
                if mended:
                    os.fsync(fd)
        except EOFError as err:
            raise CorruptError(f"{path} became shorter while it was mended: {err}.") from err
        finally:
            os.close(fd)
    return mended


class _UnsignedError(CorruptError):
    """A manifest that its digest does not fit."""


class _Overlaid:
    """A file with changes that are not written before all of them are proved.

    Attributes:
        fd: The open file.
        changes: (offset, bytes), in order.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.changes: list[tuple[int, bytes]] = []

    def read(self, nbytes: int, offset: int) -> bytes:
        """Read as if the changes were written."""
        content = bytearray(read_at(self.fd, nbytes, offset))
        for place, change in self.changes:
            _lay_over(content, offset, change, place)
        return bytes(content)

    def skeleton_digest(self, manifest: Manifest) -> bytes:
        """SHA-256 of all that is neither ledger nor rows, the changes in it."""
        sha = hashlib.sha256()
        for start, nbytes in _skeleton_parts(manifest):
            sha.update(self.read(nbytes, start))
        return sha.digest()

    def slots(self, manifest: Manifest) -> tuple[dict[int, Slot], list[int]]:
        """The good slots by number, and the numbers of damaged ones."""
        raw = self.read(manifest.ledger.nbytes, manifest.ledger.offset)
        return unpack_slots(np.frombuffer(raw, np.uint8).reshape(manifest.ledger.shape))


def _skeleton_parts(manifest: Manifest) -> Iterator[tuple[int, int]]:
    for offset, nbytes in manifest.skeleton_extents():
        for start in range(offset, offset + nbytes, _CHUNK):
            yield start, min(_CHUNK, offset + nbytes - start)


def _mend_manifest(file: _Overlaid, path: Path) -> tuple[Manifest, list[str]]:
    size = os.fstat(file.fd).st_size
    room = os.pread(file.fd, MANIFEST_LIMIT + HEADER_LENGTH, MANIFEST_OFFSET)

    def read(raw: bytes) -> Manifest:
        header = parse_header(raw[:HEADER_LENGTH], name=str(path))
        body = raw[HEADER_LENGTH : HEADER_LENGTH + header.length]
        # The cheap part of a check first.
        if len(body) != header.length or hashlib.sha256(body).hexdigest() != header.sha256:
            raise _UnsignedError(path.name)
        return parse_manifest(body, header, file_size=size, name=str(path))

    other_version = None
    try:
        parse_header(room[:HEADER_LENGTH], name=str(path))
    except MismatchError as err:
        other_version = err
    except FeatcacheError:
        pass
    else:
        with contextlib.suppress(_UnsignedError):
            return read(room), []  # what is signed and still wrong, its length, no bit mends
    found = _one_bit_right(room[: _manifest_end(room, path.name)], read)
    if found is None:
        raise other_version or CorruptError(
            f"{path}: the manifest is damaged, or the file is no featcache cache of its length. "
            f"Nothing was changed. Copy it again from its source, or remove it and extract again."
        )
    right, manifest = found
    file.changes.append((MANIFEST_OFFSET, right))
    return manifest, ["a bit of the manifest"]


def _manifest_end(room: bytes, name: str) -> int:
    """Find where the manifest's JSON ends: where its header says, or at the zeros behind it."""
    try:
        end = HEADER_LENGTH + parse_header(room[:HEADER_LENGTH], name=name).length
    except FeatcacheError:
        end = HEADER_LENGTH
    zeros = room.find(b"\0", HEADER_LENGTH)
    return min(max(end, zeros), HEADER_LENGTH + _TRIED_BYTES)


def _mend_ledger(file: _Overlaid, manifest: Manifest) -> list[str]:
    mended = []
    for number in file.slots(manifest)[1]:
        place = manifest.ledger.offset + number * SLOT_BYTES
        found = _one_bit_right(file.read(SLOT_BYTES, place), partial(unpack_slot, number))
        if found is not None and found[1].sha256 == _digest_of(file, manifest, number):
            right, what = found[0], f"a bit of ledger slot {number}"
        else:
            right, what = bytes(SLOT_BYTES), f"ledger slot {number}, emptied"
        file.changes.append((place, right))
        mended.append(what)
    return mended


def _digest_of(file: _Overlaid, manifest: Manifest, number: int) -> bytes:
    """Digest what a slot acknowledges."""
    if number == SKELETON_SLOT:
        return file.skeleton_digest(manifest)
    for part in manifest.parts.values():
        if number == part.slot:
            return part_digest(file.fd, part)
    [block] = [block for block in manifest.blocks() if block.slot == number]
    return block_digest(file.fd, manifest, block)


def _mend_skeleton(file: _Overlaid, manifest: Manifest, path: Path) -> list[str]:
    slot = file.slots(manifest)[0].get(SKELETON_SLOT)
    if slot is not None and slot.sha256 == file.skeleton_digest(manifest):
        return []
    made, parts = skeleton_parts(plan_of(manifest))
    parts.append((MANIFEST_OFFSET, manifest.to_bytes()))
    for start, nbytes in _skeleton_parts(manifest):
        right = bytearray(nbytes)
        for place, content in parts:
            _lay_over(right, start, content, place)
        if right != file.read(nbytes, start):
            file.changes.append((start, bytes(right)))
    digest = file.skeleton_digest(manifest)
    if made != manifest or (slot is not None and slot.sha256 != digest):
        raise CorruptError(
            f"{path}: HDF5's own bytes are damaged, and this version of HDF5 lays such a file out "
            f"differently. Nothing was changed. Copy it again from its source, or remove it and "
            f"extract again."
        )
    if slot is None:
        own = Slot(digest, numeric_class_id(manifest.numerics))
        file.changes.append((manifest.ledger.offset, pack_slot(SKELETON_SLOT, own, 0)))
    return ["HDF5's own bytes"]


def _lay_over(content: bytearray, start: int, other: bytes, other_start: int) -> None:
    """Copy the part of `other` that falls into `content`; both begin at a byte of the file."""
    first = max(start, other_start)
    last = min(start + len(content), other_start + len(other))
    if first < last:
        content[first - start : last - start] = other[first - other_start : last - other_start]


def _one_bit_right(raw: bytes, read: Callable[[bytes], T]) -> tuple[bytes, T] | None:
    """Find the one bit that makes `raw` readable: (the bytes put right, what they say)."""
    for candidate in _one_bit_apart(raw):
        try:
            return bytes(candidate), read(bytes(candidate))
        except (FeatcacheError, ValueError):
            continue
    return None


def _one_bit_apart(raw: bytes) -> Iterator[bytearray]:
    candidate = bytearray(raw)
    for i in range(8 * len(raw)):
        candidate[i // 8] ^= 1 << i % 8
        yield candidate
        candidate[i // 8] ^= 1 << i % 8
