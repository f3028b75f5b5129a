"""One temperature that makes probabilities of scores (Guo et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_DECADES = 8  # to both sides of what makes the scores about 1
_HALVINGS = 60


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """Find the temperature of the least mean cross-entropy of scores / temperature.

    The loss is convex in 1 / temperature, so the sign of its slope tells where the least is. Scores
    that are all right have none: the temperature is then the end of 16 decades.

    Args:
        scores: (N, K) float64.
        labels: (N,) int64.
    """
    size = float((scores - scores.mean(1, keepdim=True)).square().mean().sqrt()) or 1.0
    low, high = -_DECADES * math.log(10), _DECADES * math.log(10)
    own = scores.gather(1, labels[:, None])[:, 0]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        p = (scores * (math.exp(middle) / size)).softmax(1)
        slope = float(torch.linalg.vecdot(p, scores).sub_(own).mean())
        low, high = (middle, high) if slope < 0 else (low, middle)
    return size * math.exp(-(low + high) / 2)
