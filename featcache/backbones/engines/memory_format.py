"""Which memory format a backbone is faster in on a GPU: measured, since it depends on the backbone.

Tensor cores want channels_last, but cuDNN's grouped kernels for it, and with them depthwise
convolutions, have been several times slower than those for contiguous tensors (pytorch 34977).
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import numpy.typing as npt

from featcache.backbones.runner import BackboneRunner
from featcache.core.memory import forget_failed_batch
from featcache.core.reporting import Choice
from featcache.errors import DeviceError

_LEAST_GAIN = 1.1
_N_ROUNDS = 3


def settle_memory_format(runner: BackboneRunner, image_shape: tuple[int, int, int]) -> Choice[str]:
    """Time both formats in turn, and leave the backbone in the faster one.

    Args:
        runner: Probed, in channels_last, eager.
        image_shape: (H, W, 3) of the images that will come.

    Returns:
        "channels_last" or "contiguous", and why.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (runner.batch_size, *image_shape), np.uint8)
    try:
        ratios = [_ratio(runner, images)]
        if ratios[0] >= 1:  # else it is clear
            ratios += [_ratio(runner, images) for _ in range(_N_ROUNDS - 1)]
    except DeviceError:  # memory: channels_last had enough
        runner.lay_out("channels_last")
        forget_failed_batch(runner.device)
        runner.seconds.clear()
        return Choice("channels_last", "contiguous does not fit")
    gain = statistics.median(ratios)
    chosen = "contiguous" if gain >= _LEAST_GAIN else "channels_last"
    runner.lay_out(chosen)
    runner.seconds.clear()
    return Choice(chosen, f"contiguous is {gain:.2f} times as fast as channels_last")


def _ratio(runner: BackboneRunner, images: npt.NDArray[np.uint8]) -> float:
    seconds = {}
    for memory_format in ("channels_last", "contiguous"):
        runner.lay_out(memory_format)
        runner.features(images)  # finds its kernels
        started = time.perf_counter()
        runner.features(images)
        seconds[memory_format] = time.perf_counter() - started
    return seconds["channels_last"] / seconds["contiguous"]
