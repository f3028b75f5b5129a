"""One temperature that makes probabilities of scores (Guo et al. 2017), with Platt's targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_DECADES = 8  # to both sides of what makes the scores about 1
_HALVINGS = 60


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """Find the temperature of the least mean cross-entropy of scores / temperature.

    A row counts as (n + 1) / (n + 2) of its own class, where n rows have that class, and the rest
    in equal parts as the others (Platt 1999, section 2.2, there for two classes). So scores that
    are all right have a finite temperature too, and probabilities below 1.

    The loss is convex in 1 / temperature, so the sign of its slope tells where the least is. Scores
    that are no better than chance have none: the temperature is then an end of 16 decades.

    Args:
        scores: (N, K) float64.
        labels: (N,) int64.
    """
    size = float((scores - scores.mean(1, keepdim=True)).square().mean().sqrt()) or 1.0
    low, high = -_DECADES * math.log(10), _DECADES * math.log(10)
    aimed_at = torch.linalg.vecdot(_targets(labels, scores), scores)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        p = (scores * (math.exp(middle) / size)).softmax(1)
        slope = float(torch.linalg.vecdot(p, scores).sub_(aimed_at).mean())
        low, high = (middle, high) if slope < 0 else (low, middle)
    return size * math.exp(-(low + high) / 2)


def _targets(labels: Tensor, scores: Tensor) -> Tensor:
    """Write what each row counts of each class: (N, K), each row with the sum 1."""
    n_classes = scores.shape[1]
    of_others = 1 / (labels.bincount(minlength=n_classes).to(scores.dtype) + 2)
    targets = (of_others / max(1, n_classes - 1))[labels, None].repeat(1, n_classes)
    return targets.scatter_(1, labels[:, None], (1 - of_others)[labels, None])
