"""Parts of a file: which rows are theirs, and how their blocks become those of the whole.

A part is a cache file of its own, over whole blocks of the whole file. Its blocks hold the bytes
that they hold in the whole, so their digests are the same, and are copied.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.core.files import read_at
from featcache.core.identity import canonical_json
from featcache.store.columns import SplitRows, known_columns
from featcache.store.hdf5_file import FilePlan, plan_of, skeleton_parts
from featcache.store.identity import PART, Identity
from featcache.store.ledger import Slot
from featcache.store.manifest import Block, Manifest
from featcache.store.reader import CacheState, opened_readonly, state_of
from featcache.store.writer import CacheWriter

_KNOWN = ("labels", "ids", "image_sha256")


def planned_manifest(plan: FilePlan) -> Manifest:
    """Give the manifest of a file that is to be made, with every place in it."""
    return skeleton_parts(plan)[0]


def part_rows(whole: Manifest, first: int, stop: int) -> dict[str, tuple[int, int]]:
    """Give the rows, start and stop by split, of the blocks first..stop."""
    rows: dict[str, tuple[int, int]] = {}
    for block in whole.blocks(first, stop):
        start, _ = rows.get(block.split, (block.start, 0))
        rows[block.split] = start, block.stop
    return rows


def part_identity(whole: Identity, first: int, stop: int, n_blocks: int) -> Identity:
    """Give the identity of the part with the blocks first..stop."""
    return Identity.from_json({**whole, PART: [first, stop, n_blocks]})


def part_plan(whole: Manifest, first: int, stop: int) -> FilePlan:
    """Describe the file of the part with the blocks first..stop."""
    plan = plan_of(whole)
    splits = {
        name: replace(plan.splits[name], n_rows=end - start)
        for name, (start, end) in part_rows(whole, first, stop).items()
    }
    identity = part_identity(whole.identity, first, stop, whole.n_blocks)
    return replace(plan, identity=identity, splits=splits)


def known_sha256(blocks: Sequence[Block], known: Callable[[Block], Mapping[str, bytes]]) -> str:
    """Hash what is known of the rows of blocks before they are computed; hex.

    Args:
        blocks: Of the whole.
        known: Gives the columns of a block as they are stored.
    """
    sha = hashlib.sha256()
    for block in blocks:
        columns = known(block)
        there = [name for name in _KNOWN if name in columns]
        lengths = [len(columns[name]) for name in there]
        title = canonical_json([block.split, block.start, block.stop, there, lengths])
        sha.update(f"{len(title)}:{title}".encode())
        for name in there:
            sha.update(columns[name])
    return sha.hexdigest()


def known_of_rows(
    whole: Manifest, first: int, stop: int, rows: Mapping[str, SplitRows], *, are_all: bool
) -> str:
    """Hash labels, ids and digests of images of the blocks first..stop; hex.

    Args:
        whole: The manifest of the whole.
        first: The first block.
        stop: The block behind the last.
        rows: What is known of the rows.
        are_all: Whether these are the rows of the whole, or only those of the blocks.
    """
    offsets = {name: 0 if are_all else r[0] for name, r in part_rows(whole, first, stop).items()}

    def known(block: Block) -> dict[str, bytes]:
        start, columns = offsets[block.split], whole.splits[block.split].columns
        return known_columns(rows[block.split], columns, block.start - start, block.stop - start)

    return known_sha256(whole.blocks(first, stop), known)


@dataclass(frozen=True)
class OpenPart:
    """A part that is read.

    Attributes:
        path: Its file.
        fd: Its descriptor.
        state: Its manifest and ledger.
        blocks: Its blocks, in the order of those of the whole.
    """

    path: Path
    fd: int
    state: CacheState
    blocks: Sequence[Block]

    def slot(self, block: Block) -> Slot:
        """Give the acknowledgement of a block."""
        return self.state.slots[block.slot]

    def content(self, block: Block, *columns: str) -> dict[str, bytes]:
        """Read the columns of a block as they are stored; all of them where none is named."""
        extents = self.state.manifest.splits[block.split].columns
        wanted = columns or tuple(extents)
        places = {c: extents[c].rows(block.start, block.stop) for c in wanted if c in extents}
        return {name: read_at(self.fd, n, offset) for name, (offset, n) in places.items()}

    def known(self, block: Block) -> dict[str, bytes]:
        """Read what was known of a block's rows before they were computed."""
        return self.content(block, *_KNOWN)


@contextlib.contextmanager
def opened_part(path: Path) -> Iterator[OpenPart]:
    """Open a part; raises what `open_cache` raises of its head."""
    with opened_readonly(path) as fd:
        state = state_of(fd, path)
        yield OpenPart(path, fd, state, state.manifest.blocks())


def copy_block(writer: CacheWriter, block: Block, part: OpenPart, of_part: Block) -> bool:
    """Copy a block into the whole; it counts once `commit` has returned.

    Args:
        writer: Of the whole.
        block: In the whole.
        part: What holds it.
        of_part: The same block in the part.

    Returns:
        Whether its bytes are those that were written; if not, it must not be committed.
    """
    return writer.write_columns(block, part.content(of_part)) == part.slot(of_part).sha256
