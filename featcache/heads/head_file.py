"""A trained head on disk: head.safetensors, which holds its own description, and head.json."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from featcache.core.identity import canonical_json, tensors_digest
from featcache.core.paths import expanded
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    FeatcacheError,
    MismatchError,
    StorageError,
    UnsafeFileError,
    clipped,
)
from featcache.heads.description import describe, parse, require_weights
from featcache.heads.trained_head import TrainedHead
from featcache.store import replace_file

HEAD_FILE = "head.safetensors"
DESCRIPTION_FILE = "head.json"
_KEY = "featcache"
_DIGEST = "sha256"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def save_head(folder: Path, head: TrainedHead) -> Path:
    """Write a head into an existing folder: each file is there whole, or as it was before.

    `head.safetensors` alone is enough to load it; `head.json` repeats its description for people.

    Returns:
        The path of head.safetensors.

    Raises:
        StorageError: If the folder cannot be written.
    """
    description = describe(head)
    held = {**head.arrays, **(head.record.arrays() if head.record else {})}
    arrays = {name: np.asarray(array, order="C") for name, array in held.items()}
    signed = {**description, _DIGEST: _digest(description, arrays)}
    # One key: safetensors writes several in an order of chance.
    content = safetensors.numpy.save(arrays, metadata={_KEY: canonical_json(signed)})
    replace_file(folder / HEAD_FILE, content)
    layers = [str(layer) for layer in head.module()] if head.has_layers else []
    readable = json.dumps({**description, "layers": layers}, indent=2) + "\n"
    replace_file(folder / DESCRIPTION_FILE, readable.encode())
    return folder / HEAD_FILE


def load_head(path: str | os.PathLike[str]) -> TrainedHead:
    """Read a head; nothing in the file is run.

    Args:
        path: A run's folder, or its head.safetensors.

    Raises:
        CacheMissingError: If there is no such file.
        CorruptError: If it is not a head that featcache saved, or is damaged.
        MismatchError: If another version saved it.
        UnsafeFileError: If it is a pickle or no regular file.
    """
    path = expanded(path)
    if path.is_dir():
        path = path / HEAD_FILE
    _require_plain_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError) as err:
        raise _not_safetensors(path, err) from err
    except OSError as err:
        raise StorageError(f"Cannot read {path}: {err}.") from err
    if _KEY not in metadata:
        raise CorruptError(
            f"{path} is a safetensors file, but not of a featcache head. Nothing was loaded. "
            f"Give a run's folder, or a head.safetensors that featcache train-head wrote."
        )
    try:
        description = json.loads(metadata[_KEY])
        signature = description.pop(_DIGEST, None)
        head = parse(path, description, arrays)
        if signature != _digest(description, arrays):
            raise ValueError("its SHA-256 differs")
        require_weights(head)
    except (
        FeatcacheError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        OverflowError,
    ) as err:
        if isinstance(err, MismatchError):
            raise
        raise CorruptError(
            f"{path} describes a head that it does not hold ({clipped(str(err))}). Nothing was "
            f"loaded. Remove the folder, and train it again."
        ) from err
    return head


def read_description(path: Path) -> dict[str, Any]:
    """Read what a head says of itself, without its weights; nothing is verified.

    Raises:
        CorruptError: If it says nothing.
        StorageError: If it cannot be read.
        UnsafeFileError: If it is no regular file.
    """
    _require_plain_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            description: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
    except (safetensors.SafetensorError, LookupError, ValueError) as err:
        raise CorruptError(f"{path} says nothing of a head ({clipped(str(err))}).") from err
    except OSError as err:
        raise StorageError(f"Cannot read {path}: {err}.") from err
    return description


def _require_plain_file(path: Path) -> None:
    if not path.exists():
        raise CacheMissingError(f"There is no head at {path}. Train one with: featcache train-head")
    if not path.is_file():
        raise UnsafeFileError(f"{path} is not a regular file, so it is not read.")


def _not_safetensors(path: Path, err: Exception) -> FeatcacheError:
    """Say what a file is that the safetensors library does not read."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04" or start[:2] in _PICKLES:
        return UnsafeFileError(
            f"{path} is a pickle or a zip archive, whatever its name says: reading it could run "
            f"code. Nothing was loaded. Heads are .safetensors files that featcache train-head "
            f"wrote."
        )
    return CorruptError(
        f"{path} is not a safetensors file, or is damaged: {err}. Nothing was loaded. Give a "
        f"run's folder, or a head.safetensors that featcache train-head wrote."
    )


def _digest(description: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 of a head's description and of its weights by name, as 64 hex digits."""
    weights = tensors_digest(
        (name, f"torch.{array.dtype}", array.shape, np.ascontiguousarray(array).data.cast("B"))
        for name, array in sorted(arrays.items())
    )
    return hashlib.sha256(f"{canonical_json(description)}\n{weights}".encode()).hexdigest()
