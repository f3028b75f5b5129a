"""The digests that a ledger holds, computed from what is in the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from featcache.store.files import read_at
from featcache.store.format import Block, Manifest

_CHUNK = 4 << 20
N_DIGEST_THREADS = min(4, os.cpu_count() or 1)
"""Threads that digest blocks: SHA-256 runs at 1.2 GB/s a core, and leaves Python to others."""


def block_digest(fd: int, manifest: Manifest, block: Block) -> bytes:
    """SHA-256 of a block: its rows of every column, in the order of `format.COLUMNS`."""
    return _digest(fd, manifest.block_extents(block))


def skeleton_digest(fd: int, manifest: Manifest) -> bytes:
    """SHA-256 of all bytes outside the ledger and the rows: HDF5's own, the manifest, the gaps."""
    return _digest(fd, manifest.skeleton_extents())


def statistics_digest(fd: int, manifest: Manifest) -> bytes:
    """SHA-256 of the trunk's statistics."""
    assert manifest.statistics is not None, "this file has no statistics"
    extent = manifest.statistics.extent
    return _digest(fd, [(extent.offset, extent.nbytes)])


def _digest(fd: int, extents: Iterable[tuple[int, int]]) -> bytes:
    sha = hashlib.sha256()
    for offset, nbytes in extents:
        for start in range(offset, offset + nbytes, _CHUNK):
            sha.update(read_at(fd, min(_CHUNK, offset + nbytes - start), start))
    return sha.digest()
