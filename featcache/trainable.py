"""Is there something to train and to validate on, as far as that is known without torch."""

from __future__ import annotations

from featcache.errors import UsageError
from featcache.store import Cache


def require_trainable(cache: Cache, val_fraction: float | None) -> None:
    """Refuse a cache without training rows, and a `val_fraction` that it leaves no use for.

    Raises:
        UsageError: Naming what is missing or too much.
    """
    if "train" not in cache.splits:
        raise UsageError(
            f"{cache.path.name} has no split 'train', only {', '.join(cache.splits)}. Nothing was "
            f"started. Extract a dataset that has one."
        )
    if "val" in cache.splits and val_fraction is not None:
        raise UsageError(
            f"{cache.path.name} has its own split 'val', so --val-fraction has no use. Nothing was "
            f"started. Leave it out."
        )
