"""What decides which GPU torch would take, seen without importing it."""

from __future__ import annotations

import os
from pathlib import Path

_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)
# Device files of NVIDIA's driver, of AMD's, and of either below Windows.
_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")
_DRIVER = Path("/proc/driver/nvidia")


def gpus_seen() -> dict[str, str]:
    """Give the variables, device files and driver facts by which torch finds its GPUs.

    Where they are the same, torch of the same version chooses the same device and precision.
    """
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    devices = sorted(path.name for kind in _DEVICES for path in Path("/dev").glob(kind))
    facts = [_DRIVER / "version", *sorted(_DRIVER.glob("gpus/*/information"))]
    said = {str(file): _text(file) for file in facts if file.exists()}
    return {**variables, "devices": " ".join(devices), **said}


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError as err:
        return str(err)
