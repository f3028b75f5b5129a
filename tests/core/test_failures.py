from __future__ import annotations

import pytest
import torch

from featcache.core.failures import (
    device_failures_named,
    is_device_failure,
    is_out_of_memory,
    may_be_out_of_memory,
)
from featcache.errors import DeviceError, NonFiniteError

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


@pytest.mark.parametrize(
    "err",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("HIP error: unspecified launch failure"),
    ],
)
def test_failures_of_a_device_are_named_with_what_is_kept(err: RuntimeError) -> None:
    said = str(err).replace("`", ".")

    with (
        pytest.raises(
            DeviceError,
            match=rf"^Training failed on cuda:1: {said}\. Epoch 2 is kept\. Run",
        ),
        device_failures_named("cuda:1", "Training", kept=lambda: "Epoch 2 is kept."),
    ):
        raise err


def test_lack_of_memory_comes_with_a_way_to_take_less() -> None:
    with (
        pytest.raises(DeviceError, match=r"no memory is left.*--max-memory.*--device cpu"),
        device_failures_named("cpu", "Training", kept=lambda: "Nothing is kept."),
    ):
        raise MemoryError


@pytest.mark.parametrize("err", [RuntimeError("no trainer"), NonFiniteError("CUDA error")])
def test_other_errors_pass_as_they_are(err: RuntimeError) -> None:
    with pytest.raises(type(err)) as caught, device_failures_named("cpu", "It", kept=str):
        raise err

    assert caught.value is err
    assert not is_device_failure(RuntimeError("no trainer"))
