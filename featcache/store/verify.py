"""Verify a cache: every digest against the bytes in the file."""

from __future__ import annotations

import os
import random
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.config import IMPORTED
from featcache.core.files import named_read_failures
from featcache.core.paths import expanded
from featcache.core.starting import ANY_START, starting
from featcache.core.stopping import stop_if_asked
from featcache.errors import CorruptError, UsageError
from featcache.store.digest import N_DIGEST_THREADS, block_digest, part_digest
from featcache.store.identity import Identity
from featcache.store.manifest import PARTS, Block
from featcache.store.reader import Cache, CacheState, open_readonly, state_of

Rooms = Callable[[int, int], AbstractContextManager[npt.NDArray[Any]]]
"""Gives where the features of the rows start..stop are read to: contiguous, of their type."""


@dataclass(frozen=True)
class Damage:
    """A block whose bytes are not those that were written.

    Attributes:
        split: The split's name; "trunk" for the backbone's statistics, "reference" for its
            reference rows.
        block: The block's number within the file.
        first_row: Its first row within the split.
        last_row: Its last row, inclusive.
        what: What is wrong.
    """

    split: str
    block: int
    first_row: int
    last_row: int
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_cache` found.

    Attributes:
        path: The file.
        n_rows_checked: Rows whose digest was compared.
        n_rows: Rows of the file.
        n_blocks_checked: Blocks whose digest was compared.
        n_blocks: Blocks of the file.
        n_missing: Blocks that are not written yet.
        damages: What is damaged, in file order.
        mend_with: The command that makes it whole.
    """

    path: Path
    n_rows_checked: int
    n_rows: int
    n_blocks_checked: int
    n_blocks: int
    n_missing: int
    damages: tuple[Damage, ...]
    mend_with: str

    @property
    def is_sound(self) -> bool:
        """Whether all that was checked is what was written."""
        return not self.damages


def require_classes(cache: Cache, split: str) -> None:
    """Refuse labels that name no class. Bytes that are whole may say anything.

    Raises:
        CorruptError: If there are any.
    """
    labels, n_classes = cache[split].labels, len(cache.class_names)
    if labels is None:
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(wrong):
        raise CorruptError(
            f"{cache.path}: labels of split {split!r} ({len(wrong)} of them) are not within "
            f"0..{n_classes - 1} (row {wrong[0]} has {labels[wrong[0]]}). Nothing was done. "
            f"Extract it again."
        )


@starting(*ANY_START)
def verify_cache(
    path: str | os.PathLike[str],
    *,
    subset: float = 1.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Compare the digests of a cache, complete or not, with its bytes.

    Manifest, HDF5 structure and ledger are always checked whole.

    Args:
        path: The file.
        subset: Share of the blocks to read, drawn anew in each call; at least one block.
        on_progress: Called with (blocks done, blocks to do).

    Raises:
        CorruptError: If manifest or structure are damaged, so that no row can be trusted.
        CacheMissingError: If there is no such file.
        UsageError: If `subset` is not within 0..1.
    """
    if not 0 < subset <= 1:
        raise UsageError(f"--subset is {subset:g}, but must be above 0 and at most 1 (100%).")
    path = expanded(path)
    fd = open_readonly(path)
    try:
        return _verified(fd, path, subset=subset, on_progress=on_progress)
    finally:
        os.close(fd)


def _verified(
    fd: int,
    path: Path,
    *,
    subset: float = 1.0,
    on_progress: Callable[[int, int], None] | None = None,
    into: Mapping[str, Rooms] | None = None,
) -> VerifyReport:
    into = into or {}
    with named_read_failures(path):
        state = state_of(fd, path)
    blocks = state.manifest.blocks()
    written = [b for b in blocks if b.slot in state.slots]
    n_drawn = min(len(written), max(1, round(subset * len(written))))
    drawn = sorted(random.sample(written, n_drawn), key=lambda block: block.slot)
    damaged_slots = set(state.damaged_slots)
    damages = [
        _damage(b, blocks, "its ledger slot is not as written")
        for b in blocks
        if b.slot in damaged_slots
    ]
    try:
        damages += [
            Damage(name, 0, 0, 0, f"{PARTS[name]} are not as written")
            for name in state.manifest.parts
            if not _is_sound(fd, state, name)
        ]
        with ThreadPoolExecutor(N_DIGEST_THREADS) as threads:
            with starting("Threads that check digests", kept="Nothing was changed."):
                found = threads.map(
                    lambda block: _what_is_wrong(fd, state, block, into.get(block.split)), drawn
                )
            try:
                for i, (block, what) in enumerate(zip(drawn, found, strict=True)):
                    stop_if_asked()
                    if what is not None:
                        damages.append(_damage(block, blocks, what))
                    if on_progress is not None:
                        on_progress(i + 1, n_drawn)
            except BaseException:
                threads.shutdown(cancel_futures=True)  # at Ctrl-C, or a file that became shorter
                raise
    except EOFError as err:
        raise CorruptError(f"{path.name} became shorter while it was read: {err}.") from err
    return VerifyReport(
        path=path,
        n_rows_checked=sum(b.stop - b.start for b in drawn),
        n_rows=state.n_rows,
        n_blocks_checked=n_drawn,
        n_blocks=len(blocks),
        n_missing=len(blocks) - len(written) - sum(b.slot in damaged_slots for b in blocks),
        damages=tuple(damages),
        mend_with=_mend_with(path, state.manifest.identity),
    )


def _what_is_wrong(fd: int, state: CacheState, block: Block, rooms: Rooms | None) -> str | None:
    try:
        with rooms(block.start, block.stop) if rooms else nullcontext() as features:
            digest = block_digest(fd, state.manifest, block, features=features)
    except OSError as err:  # a bad sector costs its block, not the whole report
        return f"its rows cannot be read ({err.strerror})"
    if digest != state.slots[block.slot].sha256:
        return "the SHA-256 of its rows is not as written"
    return None


def _is_sound(fd: int, state: CacheState, name: str) -> bool:
    """Tell whether a part with a slot of its own is as it was written, or not written yet."""
    part = state.manifest.parts[name]
    if part.slot not in state.slots:
        return part.slot not in state.damaged_slots
    try:
        return part_digest(fd, part) == state.slots[part.slot].sha256
    except OSError:
        return False


def require_sound(cache: Cache, *, into: Mapping[str, Rooms] | None = None) -> None:
    """Refuse a cache if any byte is not what was written.

    Args:
        cache: The cache; it is read from the file that it holds open.
        into: Where the features of a split go, by its name. They are read once, and digested there
            by several threads.

    Raises:
        CorruptError: Naming the first damaged rows.
    """
    path = cache.path
    report = _verified(cache.file.fd, path, into=into)
    if not report.is_sound:
        first, more = report.damages[0], len(report.damages) - 1
        raise CorruptError(
            f"{path} is damaged: {first.split} rows {first.first_row} to {first.last_row}: "
            f"{first.what}{f', and {more} more' if more else ''}. Its rows were not used. See all "
            f"with: featcache cache verify {shlex.quote(str(path))}. Mend it with: "
            f"{report.mend_with}"
        )


def _mend_with(path: Path, identity: Identity) -> str:
    if identity.backbone == IMPORTED:  # there are no images to compute its rows from
        return "featcache cache import, as it was made; it replaces a damaged cache"
    return f"featcache cache repair {shlex.quote(str(path))}"


def _damage(block: Block, blocks: Sequence[Block], what: str) -> Damage:
    number = block.slot - blocks[0].slot
    return Damage(block.split, number, block.start, block.stop - 1, what)
