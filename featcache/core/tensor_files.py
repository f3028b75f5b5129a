"""Files of tensors: read without running code, and refused if they would inflate."""

from __future__ import annotations

import contextlib
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featcache.core.identity import tensors_digest
from featcache.errors import CorruptError, UnsafeFileError

# What torch.load raises on bytes that no torch.save wrote (found by flipping and cutting bytes).
UNREADABLE = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    EOFError,
    OSError,
    struct.error,
    pickle.UnpicklingError,
    MemoryError,
)


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Hash names, dtypes, shapes and bytes of all tensors in their order.

    The memory format (channels last or not) and the device have no part in it.

    Returns:
        SHA-256 as 64 hex digits.
    """
    return tensors_digest(
        (name, str(tensor.dtype), tensor.shape, _bytes_of(tensor)) for name, tensor in state.items()
    )


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Gather all parameters and buffers, those that a state dict leaves out included."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content: memoryview = flat.view(torch.uint8).numpy().data
    return content


def refuse_inflating(path: Path) -> None:
    """Refuse an archive that holds more than it weighs; torch.save compresses nothing.

    Raises:
        UnsafeFileError: If it would fill the memory when it is read.
    """
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        inflated = sum(entry.file_size for entry in archive.infolist())
        if inflated > path.stat().st_size:
            raise UnsafeFileError(
                f"{path} was refused: it would inflate from {path.stat().st_size} to {inflated} "
                f"bytes, and torch.save compresses nothing. Nothing was loaded."
            )


def read_checkpoint(path: Path, names: Sequence[str], *, way_out: str) -> dict[str, Any]:
    """Read one of our own checkpoints, running no code from it.

    Args:
        path: The file.
        names: What it must hold.
        way_out: What to do if it cannot be read.

    Raises:
        CorruptError: If it cannot be read.
    """
    try:
        refuse_inflating(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        for name in names:
            checkpoint[name]
    except (*UNREADABLE, UnsafeFileError) as err:
        raise CorruptError(
            f"{path} is damaged ({type(err).__name__}). Nothing was changed. {way_out}"
        ) from err
    return checkpoint
