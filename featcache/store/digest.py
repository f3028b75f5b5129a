"""The digests that a ledger holds, computed from what is in the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.files import read_at, read_into
from featcache.store.manifest import Block, Manifest, Part

_CHUNK = 4 << 20
N_DIGEST_THREADS = min(4, os.cpu_count() or 1)
"""Threads that digest blocks: SHA-256 runs at 1.2 GB/s a core, and leaves Python to others."""


def block_digest(
    fd: int, manifest: Manifest, block: Block, *, features: npt.NDArray[Any] | None = None
) -> bytes:
    """SHA-256 of a block: its rows of every column, in the order of `manifest.COLUMNS`.

    Args:
        fd: The file.
        manifest: Its manifest.
        block: The block.
        features: Contiguous; filled with the block's features, which are digested there.
    """
    extents = manifest.block_extents(block)
    first: list[memoryview] = []
    if features is not None:
        read_into(fd, features, next(extents)[0])  # features are the first column
        first = [features.reshape(-1).view(np.uint8).data]
    return _digest(chain(first, _pieces(fd, extents)))


def skeleton_digest(fd: int, manifest: Manifest) -> bytes:
    """SHA-256 of all bytes outside the ledger and the rows: HDF5's own, the manifest, the gaps."""
    return _digest(_pieces(fd, manifest.skeleton_extents()))


def part_digest(fd: int, part: Part) -> bytes:
    """SHA-256 of what has a slot of its own: the backbone's statistics, or the reference rows."""
    return _digest(_pieces(fd, [part.extent.rows(0, part.extent.shape[0])]))


def read_part(fd: int, part: Part, sha256: bytes) -> npt.NDArray[np.float32] | None:
    """Read what has a slot of its own; None if it has not the digest that the slot says."""
    content = read_at(fd, part.extent.nbytes, part.extent.offset)
    if hashlib.sha256(content).digest() != sha256:
        return None
    return np.frombuffer(content, part.extent.dtype).reshape(part.extent.shape)


def _digest(pieces: Iterable[bytes | memoryview]) -> bytes:
    sha = hashlib.sha256()
    for piece in pieces:
        sha.update(piece)
    return sha.digest()


def _pieces(fd: int, extents: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    for offset, nbytes in extents:
        for start in range(offset, offset + nbytes, _CHUNK):
            yield read_at(fd, min(_CHUNK, offset + nbytes - start), start)
