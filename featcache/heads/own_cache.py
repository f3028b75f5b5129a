"""The cache that a head was trained on, where it still is."""

from __future__ import annotations

import os

from featcache.core.paths import expanded
from featcache.errors import CacheMissingError, clipped
from featcache.heads.trained_head import TrainedHead
from featcache.store import Cache, find_fingerprint, is_there, open_cache, require_sound


def own_cache(head: TrainedHead, cache_dir: str | os.PathLike[str]) -> Cache | None:
    """Find a head's cache where it was, or by its fingerprint below a folder; None if it is gone.

    Raises:
        CorruptError: If what lies there is damaged.
    """
    if is_there(head.cache_path):
        cache = open_cache(head.cache_path)
        if cache.fingerprint == head.cache_fingerprint:
            return cache
    path = find_fingerprint(expanded(cache_dir), head.cache_fingerprint)
    return None if path is None else open_cache(path)


def require_own_cache(head: TrainedHead, cache_dir: str | os.PathLike[str]) -> Cache:
    """Find a head's cache, for its rows to be evaluated.

    Raises:
        CacheMissingError: If it is gone.
        CorruptError: If what lies there is damaged.
    """
    cache = own_cache(head, cache_dir)
    if cache is None:
        raise CacheMissingError(
            f"The cache of {head.path} is neither at {clipped(str(head.cache_path))} nor in "
            f"{os.fspath(cache_dir)} (its fingerprint is {head.cache_fingerprint[:8]}). Say where "
            f"it is with --cache, or extract it again."
        )
    return cache


def neighbours_cache(head: TrainedHead, cache_dir: str | os.PathLike[str]) -> Cache | None:
    """Find and verify the cache whose rows a kNN head asks; None if it asks none.

    Raises:
        CacheMissingError: If it is gone.
        CorruptError: If it is damaged.
    """
    if head.has_layers:
        return None
    cache = own_cache(head, cache_dir)
    if cache is None:
        raise CacheMissingError(
            f"{head.path} is a kNN head, which asks the rows of its cache, and that is neither at "
            f"{clipped(str(head.cache_path))} nor in {os.fspath(cache_dir)}. Nothing was started. "
            f"Say where it is with --cache-dir, or train a head of another --solver than knn."
        )
    require_sound(cache)
    return cache
