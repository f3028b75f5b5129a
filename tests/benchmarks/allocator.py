"""Freed memory kept for a while, in a benchmark's own process, as the command line keeps it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from featcache.core.allocator import keep_freed_memory

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep it inside, and give it back then; glibc's thresholds stay fixed afterwards."""
    keep_freed_memory()
    try:
        yield
    finally:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 65536)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 * 1024)
        libc.malloc_trim(0)
