"""The file that --weights names, looked for before torch is imported."""

from __future__ import annotations

from pathlib import Path

from featcache.core.paths import expanded
from featcache.errors import UnsafeFileError, WeightsError, did_you_mean


def existing_weights_file(path: str | Path) -> Path:
    """Find a file of weights.

    Raises:
        WeightsError: If there is none, or it is empty.
        UnsafeFileError: If something else than a file is there.
    """
    if "://" in str(path):
        raise WeightsError(
            f"--weights {path} is a URL; featcache loads weights only from torchvision's list or "
            f"from a file. Download it, check its digest, then give --weights PATH."
        )
    path = expanded(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a file of weights. Name the file in it.")
    if path.exists() and not path.is_file():
        raise UnsafeFileError(
            f"{path} is a FIFO, socket or device, not a file of weights. Nothing was read from it."
            f" Give --weights the PATH of a regular file."
        )
    if not path.is_file():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, names)
        raise WeightsError(f"There is no file of weights at {path.absolute()}.{hint}")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty (0 bytes). Delete it and copy it again.")
    return path
