"""What a machine allows: its peaks, measured, and the rates that follow from them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.peers_heads import BATCH_SIZE, N_CLASSES

# At 224 px; a multiplication with its addition is two.
FLOP_PER_IMAGE = {"mobilenet_v3_large": 0.428e9, "vgg16": 30.69e9}


def machine_limits(precisions: Sequence[str]) -> dict[str, float]:
    """Measure the peaks of arithmetic and memory: the best of 20 convolutions, of 10 copies.

    The convolution is VGG16's largest, 512 to 512 channels; matrix products go through another
    library, which has half of that on AMD processors. A copy counts what it reads and what it
    writes. That the target is read too, before it is overwritten, is not counted, so that shares
    of this limit are rather too high than too low.
    """
    limits = {}
    for precision in precisions:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        conv = torch.nn.Conv2d(512, 512, 3, padding=1, dtype=dtype)
        conv = conv.to(memory_format=torch.channels_last)
        images = torch.rand((16, 512, 28, 28), dtype=dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            seconds = min(_seconds(lambda c=conv, x=images: c(x)) for _ in range(20))
        limits[f"{precision}_flop_per_s"] = 2 * 9 * 512**2 * 16 * 28**2 / seconds
    source = torch.rand(1 << 26)
    target = torch.empty_like(source)
    seconds = min(_seconds(lambda: target.copy_(source)) for _ in range(10))
    return limits | {"bytes_per_s": 2 * source.nbytes / seconds}


def has_bf16() -> bool:
    """Tell whether this processor has instructions for bf16."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def limited(rate: float, per_s: float, what: str) -> dict[str, Any]:
    """Set a rate beside what the machine allows."""
    return {"limit": {"per_s": per_s, "what": what, "share": rate / per_s}}


def head_limit(
    rate: float, n_inputs: int, hidden: Sequence[int], limits: Mapping[str, float]
) -> dict[str, Any]:
    """Set rows a second beside what memory allows.

    Each step reads a batch, and moves 36 bytes a parameter: the weight, its gradient and Adam's two
    moments, read once or twice and written.
    """
    sizes = [n_inputs, *hidden, N_CLASSES]
    n_parameters = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    n_bytes = 4 * BATCH_SIZE * n_inputs + 36 * n_parameters
    per_s = BATCH_SIZE * limits["bytes_per_s"] / n_bytes
    return limited(rate, per_s, "memory's bandwidth, all else free")


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
