"""Images that are far from all others, compared with the images of their class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featcache.insight.audit.result import Outlier
from featcache.insight.audit.rows import AuditedRows, NumbersOfRows

_OF_NORMAL = 1.4826  # makes of a median absolute deviation a standard deviation
_LEAST_SPREAD = 1e-6


def deviations(
    nearness: npt.NDArray[np.float32], classes: NumbersOfRows
) -> npt.NDArray[np.float64]:
    """Tell how far each image lies below the median of its class, in robust deviations.

    Args:
        nearness: (N,) mean cosine of each image to its nearest; NaN if it has none.
        classes: (N,).

    Returns:
        (N,), 0 of an image that has no nearest.
    """
    found = np.zeros(len(nearness))
    for k in np.unique(classes):
        own = np.flatnonzero((classes == k) & ~np.isnan(nearness))
        if len(own):
            below = np.median(nearness[own]) - nearness[own].astype(np.float64)
            spread = _OF_NORMAL * np.median(np.abs(below))
            found[own] = below / max(spread, _LEAST_SPREAD)
    return found


def find_outliers(
    rows: AuditedRows, nearness: npt.NDArray[np.float32], *, top: int
) -> Sequence[Outlier]:
    """Name the images that lie farthest off, the farthest first.

    Args:
        rows: N images.
        nearness: (N,) mean cosine of each to its ten nearest.
        top: How many.
    """
    # An image looks for its nearest in its own split and in those before it. So only images of one
    # split are compared with one another.
    classes = np.zeros(len(rows), np.int64) if rows.labels is None else rows.labels
    off = deviations(nearness, classes * len(rows.of_split) + rows.split_of)
    order = np.argsort(-off, kind="stable")
    return [
        Outlier(rows.image(i), float(nearness[i]), float(off[i]))
        for i in order[:top].tolist()
        if off[i] > 0
    ]
