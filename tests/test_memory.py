from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from featcache.memory import (
    MemoryWatch,
    free_memory,
    is_out_of_memory,
    may_be_out_of_memory,
)

# Word for word what torch 2.11 and 2.14, cuDNN 9, cuBLAS 13, HIP and oneDNN say.
OUT_OF_MEMORY = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB",
    "HIP out of memory. Tried to allocate 20.00 MiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA driver error: out of memory",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "cudaErrorMemoryAllocation",
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
    "std::bad_alloc",
]
PERHAPS = [
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "could not create a primitive",
]
ANOTHER = [
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "device-side assert triggered",
]


@pytest.mark.parametrize("said", OUT_OF_MEMORY)
def test_every_wording_of_no_memory_left_is_known(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))
    assert is_out_of_memory(torch.AcceleratorError(said))
    assert may_be_out_of_memory(RuntimeError(said))


@pytest.mark.parametrize("said", PERHAPS)
def test_what_may_have_other_reasons_is_told_apart(said: str) -> None:
    assert not is_out_of_memory(RuntimeError(said))
    assert may_be_out_of_memory(RuntimeError(said))


@pytest.mark.parametrize("said", ANOTHER)
def test_other_errors_are_not_taken_for_it(said: str) -> None:
    assert not may_be_out_of_memory(RuntimeError(said))


def test_errors_with_a_type_of_their_own_need_no_wording() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("none"))
    assert not is_out_of_memory(ValueError("out of memory"))


class Gpu:
    """What torch tells of a GPU's memory, in bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.reserved = self.peak = 100
        self.free, self.n_ooms = 1000, 3
        answers: dict[str, Callable[..., object]] = {
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda _: None,
            "memory_allocated": lambda _: self.allocated,
            "memory_reserved": lambda _: self.reserved,
            "max_memory_allocated": lambda _: self.peak,
            "mem_get_info": lambda _: (self.free, 2000),
            "memory_stats": lambda _: {"num_ooms": self.n_ooms},
        }
        for name, answer in answers.items():
            monkeypatch.setattr(f"torch.cuda.{name}", answer)


def test_a_batch_that_leaves_a_fifth_of_what_it_takes_has_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    watch = MemoryWatch("cuda:0")

    gpu.peak, gpu.free = 600, 600

    assert not watch.was_short()


def test_a_batch_that_leaves_less_is_short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    watch = MemoryWatch("cuda:0")

    gpu.peak, gpu.free = 600, 599

    assert watch.was_short()


def test_an_algorithm_that_was_refused_its_workspace_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    watch = MemoryWatch("cuda:0")

    gpu.n_ooms += 1

    assert watch.was_short()


def test_what_torch_caches_of_a_gpu_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    gpu.free, gpu.allocated, gpu.reserved = 7_000, 200, 9_000

    assert free_memory("cuda:0") == (15_800, "GPU memory")
