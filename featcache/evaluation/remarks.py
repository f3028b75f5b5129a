"""What an accuracy does not say by itself: that it is no better than naming the largest class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from featcache.errors import clipped, counted
from featcache.evaluation.metrics import Estimate

_Z = 1.959964  # the normal distribution's 97.5th percentile


def majority_remark(
    figure: str,
    acc: Estimate,
    n: int,
    shares: Mapping[int, float],
    class_names: Sequence[str],
) -> str:
    """Say that an accuracy is no better than naming the largest class; empty if it is better.

    Args:
        figure: Name of the accuracy.
        acc: It, with its interval.
        n: Images that it is of.
        shares: The share of each class among them.
        class_names: K names.
    """
    largest = max(shares, key=lambda k: shares[k])
    if acc.low > shares[largest]:
        return ""
    return (
        f"{figure} {acc.value:.4f} is no better than to say {clipped(class_names[largest])!r}, the "
        f"largest class, of every image ({shares[largest]:.4f}): its 95% interval is {acc.low:.4f} "
        f"to {acc.high:.4f}, of {counted(n, 'image')}."
    )


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Compute the 95% interval of a share of `n` (Wilson 1927), which holds for 0 and 1 as well."""
    centre = share + _Z**2 / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return (centre - half) / scale, (centre + half) / scale
