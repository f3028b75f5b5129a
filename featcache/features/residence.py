"""How many rows of features are in memory at a time, where not all of them fit; no torch."""

from __future__ import annotations

from featcache.config import TrainSpec
from featcache.core.arguments import count
from featcache.errors import UsageError
from featcache.store import Cache, human_bytes

_FEWEST_BATCHES = 16


def fitting_window(cache: Cache, train: TrainSpec, max_memory: int | None) -> int | None:
    """Choose the window that fits into `max_memory` bytes; None if none is needed."""
    if max_memory is None or "train" not in cache.splits:
        return None
    max_memory = count("--max-memory", max_memory)
    return window_rows(cache, split="train", batch_size=train.batch_size, max_bytes=max_memory)


def window_rows(cache: Cache, *, split: str, batch_size: int, max_bytes: int) -> int | None:
    """Choose how many rows of a split are shuffled together; None if all of them fit.

    Args:
        cache: The cache.
        split: The split that trains.
        batch_size: Rows in one step.
        max_bytes: Memory for features.

    Raises:
        UsageError: If there is room for fewer than 16 batches.
    """
    features = cache[split].features
    if sum(rows.features.nbytes for rows in cache.splits.values()) <= max_bytes:
        return None
    row_bytes = features.nbytes // max(1, len(features))
    n_rows = max_bytes // row_bytes
    fewest = _FEWEST_BATCHES * batch_size
    if n_rows < fewest:
        needed_kb = -(-fewest * row_bytes // 1000)
        raise UsageError(
            f"--max-memory has room for {n_rows} rows of {human_bytes(row_bytes)}, but shuffling "
            f"within fewer than {_FEWEST_BATCHES} batches would not be shuffling. Nothing was "
            f"started. Give at least {needed_kb}kB, or a smaller --batch-size."
        )
    return int(n_rows)
