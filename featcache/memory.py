"""Memory of the machine and of its GPUs: what is free, and when it was short."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

from featcache import cgroup

# What torch, cuDNN, cuBLAS and the drivers say when no memory is left, beside the errors that have
# a type of their own. oneDNN and handles that cannot be made give no reason, and cuDNN tries one
# algorithm after the other where their workspace does not fit, until there is none.
_OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",
    "not enough memory",
    "allocate memory",
    "memoryallocation",
    "alloc_failed",
    "bad_alloc",
)
_PERHAPS_OUT_OF_MEMORY = (
    "unable to find an engine",  # https://github.com/pytorch/pytorch/issues/108645
    "unable to find a valid cudnn algorithm",
    "cudnn_status_internal_error",
    "cudnn_status_not_initialized",
    "cublas_status_not_initialized",
    "could not create a primitive",
    "could not execute a primitive",
)
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


def _free_of_host() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def is_out_of_memory(err: BaseException) -> bool:
    """Tell whether `err` says that the device or the machine has no memory left."""
    if isinstance(err, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(err, RuntimeError) and _says(err, _OUT_OF_MEMORY)


def may_be_out_of_memory(err: BaseException) -> bool:
    """Tell whether `err` is what a device says, among others, when no memory is left."""
    return is_out_of_memory(err) or (
        isinstance(err, RuntimeError) and _says(err, _PERHAPS_OUT_OF_MEMORY)
    )


def _says(err: BaseException, wordings: tuple[str, ...]) -> bool:
    said = str(err).lower()
    return any(wording in said for wording in wordings)


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
