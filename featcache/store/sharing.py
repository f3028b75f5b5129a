"""A file that other processes go on with, while one keeps it open and holds its lock."""

from __future__ import annotations

import os
from collections.abc import Mapping

from featcache.core.files import named_failures, sync_bytes, write_at
from featcache.store.columns import SplitRows, known_columns
from featcache.store.ledger import SLOT_BYTES
from featcache.store.reader import open_regular
from featcache.store.writer import CacheWriter


def hand_over(writer: CacheWriter, rows: Mapping[str, SplitRows]) -> None:
    """Let the disk say all that a writer knows, for other processes that write its blocks.

    They take for acknowledged what the ledger says, so the slots of blocks that this writer has
    forgotten are erased. They take labels, ids and digests of images from the file, so these are
    written again for the blocks that are pending: no digest of a block covers them yet.

    Args:
        writer: The file. Its ledger is read again.
        rows: What is known of its rows.

    Raises:
        StorageError: If it cannot be written.
    """
    manifest = writer.manifest
    with named_failures(writer.file, kept="All acknowledged rows are kept."):
        fd = open_regular(writer.file, os.O_RDWR)
        try:
            for block in writer.pending():
                write_at(fd, bytes(SLOT_BYTES), manifest.ledger.offset + block.slot * SLOT_BYTES)
                columns = manifest.splits[block.split].columns
                known = known_columns(rows[block.split], columns, block.start, block.stop)
                for column, content in known.items():
                    write_at(fd, content, columns[column].rows(block.start, block.stop)[0])
            sync_bytes(fd)
        finally:
            os.close(fd)
    writer.refresh()
