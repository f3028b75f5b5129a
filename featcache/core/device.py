"""Device, precision, batch size, workers: each choice comes back with its reason."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from featcache.core.arguments import device_name, text
from featcache.core.memory import free_memory
from featcache.core.reporting import Choice
from featcache.core.tolerances import TF32_ON_CPU
from featcache.core.usable_cores import usable_cores
from featcache.errors import DeviceError, UsageError

_AMPERE = 8  # major compute capability of the first GPUs with TF32 and bf16
# What NVIDIA's libraries and torch read from the environment, and compute otherwise then.
_OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "TORCH_CUDNN_V8_API_DISABLED")


def pick_device(device: str) -> Choice[str]:
    """Choose where the backbone runs.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: If a CUDA device is asked for and not visible.
        UsageError: If the name is none of these.
    """
    device = text("--device", device)
    device = device_name(device)
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        if n_cuda:
            return Choice("cuda:0", f"{torch.cuda.get_device_name(0)} is visible")
        return Choice("cpu", "no CUDA device is visible")
    if device == "cpu":
        return Choice("cpu", "asked for")
    index = int(device.partition(":")[2] or 0)
    if index >= n_cuda:
        has_cuda = torch.version.cuda is not None or torch.version.hip is not None
        another = "" if has_cuda else ", or install a CUDA build of torch (see README, Install)"
        raise DeviceError(
            f"{device} was asked for, but torch {torch.__version__} sees {n_cuda} CUDA device(s). "
            f"Nothing was started. Run with --device cpu (in place of --devices 2: --devices "
            f"cpu:2){another}."
        )
    return Choice(f"cuda:{index}", "asked for")


def pick_precision(precision: str, device: str) -> Choice[str]:
    """Choose the backbone's arithmetic: "fp32", "tf32", "bf16" or "fp16".

    Raises:
        UsageError: If the device cannot compute in what is asked for.
    """
    if device == "cpu":
        if precision == "tf32":
            raise UsageError(TF32_ON_CPU)
        return Choice("fp32", "the CPU's default") if precision == "auto" else _as_asked(precision)
    if torch.version.hip is not None:  # AMD's numbers of a GPU mean other things
        if precision == "tf32":
            raise UsageError("--precision tf32 exists only on NVIDIA GPUs. Use fp32 or bf16.")
        why = "AMD GPUs have no TF32 for convolutions"
        return Choice("fp32", why) if precision == "auto" else _as_asked(precision)
    major, minor = torch.cuda.get_device_capability(device)
    if precision == "auto":
        if major >= _AMPERE:
            why = "cuDNN's default for convolutions on this GPU, as in the notebook"
            return Choice("tf32", why)
        return Choice("fp32", "this GPU has no TF32")
    if precision in ("tf32", "bf16") and major < _AMPERE:
        instead = "emulate it slowly" if precision == "bf16" else "compute in fp32 and say tf32"
        raise UsageError(
            f"--precision {precision} needs a GPU of compute capability {_AMPERE}.0 or later, and "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}: it would {instead}. "
            f"Nothing was started. Use fp16, which it has tensor cores for from 7.0 on, or fp32."
        )
    return _as_asked(precision)


def _as_asked(precision: str) -> Choice[str]:
    return Choice(precision, "asked for")


def processor_name() -> str:
    """Name the processor as the kernel does; empty where it does not."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def numeric_class(
    *,
    device: str,
    precision: str,
    batch_size: int,
    compiler: str | None = None,
    memory_format: str = "channels_last",
) -> dict[str, Any]:
    """Name what decides the bits of a feature beside the identity of its cache.

    Two runs of one class write the same bytes; two classes may differ in the last digits.
    """
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "precision": precision,
        "batch_size": batch_size,
        "memory_format": memory_format,
    }
    if compiler:
        facts["compiler"] = compiler
    if device == "cpu":
        facts["device"] = f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        facts["threads"] = torch.get_num_threads()
    else:
        facts["device"] = torch.cuda.get_device_name(device)
        facts["cudnn"] = torch.backends.cudnn.version()
        facts |= _facts_of_gpu(device)
    return facts


def _facts_of_gpu(device: str) -> dict[str, Any]:
    """Name what else decides which kernels a GPU runs: cuBLAS and cuDNN choose by its size."""
    gpu = torch.cuda.get_device_properties(device)
    overrides = {name: os.environ[name] for name in _OVERRIDES if name in os.environ}
    return {
        "capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": gpu.multi_processor_count,  # fewer in a part of a GPU (MIG)
        "cuda": torch.version.cuda or torch.version.hip,
        "driver": _driver(),
        **overrides,
    }


def _driver() -> str:
    """Read the version of NVIDIA's driver."""
    file = Path("/proc/driver/nvidia/version")
    said = re.search(r"\s(\d+\.[\d.]+)\s", file.read_text()) if file.exists() else None
    return said[1] if said else "unknown"


def pick_batch_size(device: str, *, nbytes_per_image: int) -> Choice[int]:
    """Choose the images in one forward pass: a power of two that leaves memory to spare.

    Args:
        device: "cpu" or "cuda:N".
        nbytes_per_image: Activations that one image needs at a time.
    """
    # On a CPU larger batches gain nothing (docs/benchmarks.md) and cost memory.
    share, wanted = (0.25, 16) if device == "cpu" else (0.5, 256)
    free, kind = free_memory(device)
    fits = max(1, int(free * share / max(1, nbytes_per_image)))
    if fits >= wanted:
        return Choice(
            wanted, "fastest on the CPUs measured" if device == "cpu" else "enough for a GPU"
        )
    return Choice(1 << (fits.bit_length() - 1), f"{free / 1e9:.1f} GB of {kind} are free")


def pick_n_workers(n_workers: int | None, *, device: str = "cpu") -> Choice[int]:
    """Choose how many processes decode image files: for a GPU, whose backbone waits, all cores."""
    if n_workers is not None:
        return Choice(n_workers, "asked for")
    n_cores, why = usable_cores()
    return Choice(min(8, n_cores) if device == "cpu" else n_cores, why)
