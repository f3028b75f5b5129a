"""What glibc does with freed memory.

This is set for the whole process. So a program sets it, and the library does not.
"""

from __future__ import annotations

import ctypes
import os

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the rest of this process, not give it back to the system.

    A CPU backbone frees and allocates the same large activations in every layer, a head its
    gradients in every step; returned pages must be mapped and zeroed again each time. MobileNetV2
    at batch 16 runs 1.6 to 2 times as fast with this, the scratch MLP 1.6 times
    (docs/benchmarks.md). The command line does it. The library does not: nothing can put glibc back
    as it was, for it stops adapting its thresholds once one is set (docs/decisions/0003). Elsewhere
    than on glibc it does nothing.
    """
    if _is_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):  # Windows, macOS, another libc
        return False
