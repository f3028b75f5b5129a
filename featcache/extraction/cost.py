"""What a cache saves: the cost of an end-to-end epoch against one on the cache."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from featcache.core.plain_torch import plain_torch
from featcache.core.random_state import seeded

_BATCH_SIZE = 64
_N_STEPS = 12


@dataclass(frozen=True)
class CostAccount:
    """Seconds saved by training on a cache.

    Attributes:
        extraction_s: What the cache cost, all views of all images at the measured rate.
        end_to_end_epoch_s: The backbone's part of one end-to-end epoch: every training image
            through reading, preprocessing and backbone at the measured rate.
        cache_epoch_s: One epoch of the notebook's head on features of this length: the median of
            12 measured steps, times the steps of an epoch.
        break_even_epoch: From this epoch on, the cache was cheaper; None if it never is.
    """

    extraction_s: float
    end_to_end_epoch_s: float
    cache_epoch_s: float
    break_even_epoch: int | None


@plain_torch()
def cost_account(
    *, seconds_per_image: float, n_images: int, n_train: int, n_features: int, device: str
) -> CostAccount:
    """Weigh the cost of a cache against training end to end.

    Args:
        seconds_per_image: Measured, for reading, preprocessing and backbone.
        n_images: Images of all splits, each view counted.
        n_train: Images of the training split.
        n_features: D, the length of a row.
        device: "cpu" or "cuda:N", where the head would train.
    """
    extraction_s = seconds_per_image * n_images
    end_to_end_s = seconds_per_image * n_train
    cache_s = _head_step_s(n_features, device) * math.ceil(n_train / _BATCH_SIZE)
    saved_s = end_to_end_s - cache_s
    return CostAccount(
        extraction_s=extraction_s,
        end_to_end_epoch_s=end_to_end_s,
        cache_epoch_s=cache_s,
        break_even_epoch=math.ceil(extraction_s / saved_s) if saved_s > 0 else None,
    )


def _head_step_s(n_features: int, device: str) -> float:
    """Time one step of the notebook's head (50, 20, 10) with fused Adam on the device."""
    with seeded(0):
        head = nn.Sequential(
            nn.Linear(n_features, 50), nn.ReLU(), nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 10)
        ).to(device)
        features = torch.rand(_BATCH_SIZE, n_features).to(device)
    labels = torch.arange(_BATCH_SIZE, device=device) % 10
    adam = torch.optim.Adam(head.parameters(), lr=1e-5, fused=True)
    seconds = []
    for _ in range(_N_STEPS):
        started = time.perf_counter()
        adam.zero_grad()
        nn.functional.cross_entropy(head(features), labels).backward()
        adam.step()
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
