"""Runs in small portions, so that a small dataset has several of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from featcache.extraction.pace import Pace, at_pace


@contextlib.contextmanager
def small_blocks(n_batches: int = 2, **fields: Any) -> Iterator[None]:
    """Make blocks of so many batches inside; `fields` are those of `Pace`."""

    def rows_per_block(row_nbytes: int, batch_size: int, *, gflop: float) -> int:
        return n_batches * batch_size

    with at_pace(Pace(rows_per_block=rows_per_block, **fields)):
        yield


@contextlib.contextmanager
def blocks_of(n_rows: int, **fields: Any) -> Iterator[None]:
    """Make blocks of so many rows inside, whatever a batch has."""

    def rows_per_block(row_nbytes: int, batch_size: int, *, gflop: float) -> int:
        return n_rows

    with at_pace(Pace(rows_per_block=rows_per_block, **fields)):
        yield
