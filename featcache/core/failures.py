"""How a device says that it failed, and what featcache makes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from featcache.errors import DeviceError, FeatcacheError

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
_FAILED = ("cuda error", "cuda driver error", "hip error", "cudnn", "cublas", "cusolver", "nvrtc")


@contextlib.contextmanager
def device_failures_named(device: str, doing: str, *, kept: Callable[[], str]) -> Iterator[None]:
    """Turn what a device says inside into a DeviceError; other errors pass.

    Args:
        device: "cpu" or "cuda:N".
        doing: What is done inside, as in "Training".
        kept: Keeps what can be kept, and says so.

    Raises:
        DeviceError: If the device fails or has no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        if isinstance(err, FeatcacheError) or not is_device_failure(err):
            raise
        said = str(err).partition("\n")[0] or "no memory is left"
        way_out = "Run the same command again, or with --device cpu."
        if is_out_of_memory(err):
            way_out = (
                "Run the same command again when more memory is free, with --max-memory where that "
                "is an option, or with --device cpu."
            )
        raise DeviceError(f"{doing} failed on {device}: {said}. {kept()} {way_out}") from err


def is_device_failure(err: BaseException) -> bool:
    """Tell whether `err` came from a device, its driver or libraries, or from lack of memory."""
    if isinstance(err, torch.AcceleratorError) or may_be_out_of_memory(err):
        return True
    return isinstance(err, RuntimeError) and _says(err, _FAILED)


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
