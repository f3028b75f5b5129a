"""Memory of the machine and of its GPUs: what is free, what is taken, and when it was short."""

from __future__ import annotations

import contextlib
import gc
import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from featcache.core import cgroup

_MAPPED_FROM = 32 << 20  # bytes; glibc maps no smaller ones either
_SPARE = 1.2  # of what a batch takes: what must be free


class FreeMemory(NamedTuple):
    """Memory that can still be allocated.

    Attributes:
        n_bytes: How much.
        kind: What it is of, as in "3 GB of memory".
    """

    n_bytes: int
    kind: str


def free_memory(device: str) -> FreeMemory:
    """Measure what can still be allocated on `device`, within the limits of its container.

    What torch's allocator holds of a GPU and nobody uses is free for whatever comes next here.
    """
    if device != "cpu":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return FreeMemory(int(torch.cuda.mem_get_info(device)[0]) + cached, "GPU memory")
    of_host, of_group = _free_of_host(), cgroup.memory_left()
    if of_group is not None and of_group < of_host:
        return FreeMemory(of_group, "memory within the limit of this container (cgroup)")
    return FreeMemory(of_host, "memory")


def large_empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make an empty tensor whose memory goes back to the system with it.

    The command line lets glibc keep freed memory. Features of several heads, one set after the
    other, would then pile up there: `reproduce` of three systems held 6 GB three times.

    Raises:
        MemoryError: If there is no room.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or nbytes < _MAPPED_FROM:
        return torch.empty(shape, dtype=dtype, device=device)
    try:
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as err:
        raise MemoryError(f"{nbytes} bytes of memory are not to be had: {err}") from err
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)


def _free_of_host() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def forget_failed_batch(device: str) -> None:
    """Give back what a batch that did not fit holds, before a smaller one is tried.

    Frames of the failed pass can hang on in cycles, with all their activations: on an H100 limited
    to 7 GB not even one image fitted then, where 128 do.
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


class MemoryWatch:
    """Watches what one batch takes of a GPU; a CPU chooses no algorithm by its free memory."""

    def __init__(self, device: str) -> None:
        """Begin to watch; what an earlier batch left behind is given back first."""
        self._device = device
        if device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            self._n_refused = self._refused()

    def was_short(self) -> bool:
        """Tell whether more memory could have led to another algorithm, and so to other digits.

        cuDNN takes the first algorithm whose workspace fits, and keeps it. So none may have been
        refused its workspace, and a fifth more than was taken must be free for the next time.
        """
        if self._device == "cpu":
            return False
        taken = torch.cuda.max_memory_allocated(self._device) - self._before
        is_close = free_memory(self._device).n_bytes < _SPARE * taken
        return is_close or self._refused() > self._n_refused

    def _refused(self) -> int:
        return int(torch.cuda.memory_stats(self._device).get("num_ooms", 0))
