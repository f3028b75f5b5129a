"""The plane in which features vary most."""

from __future__ import annotations

import torch
from torch import Tensor

from featcache.core.arithmetic import head_arithmetic
from featcache.core.plain_torch import plain_torch
from featcache.features.split import evenly_spaced, ordered_by_class, valid_rows
from featcache.features.trainable import labels_of
from featcache.insight.report.cache_facts import FeatureMap
from featcache.insight.stored_rows import stored_rows
from featcache.store import Cache

MOST_POINTS = 2000  # 20 kB of a page; more would hide each other
_DIGITS = 4


@torch.no_grad()
@plain_torch()
def feature_map(cache: Cache, *, seed: int, device: torch.device) -> FeatureMap:
    """Place images by the first two principal components of their features.

    They are up to 2,000 test images, of each class its share, or training images where there are no
    test images.

    Args:
        cache: The cache, which was verified.
        seed: Seeds which images, where there are more.
        device: Where to compute.
    """
    split = "test" if "test" in cache and cache["test"].valid.any() else next(iter(cache.splits))
    rows = valid_rows(cache[split])
    if len(rows) > MOST_POINTS:
        order = ordered_by_class(torch.from_numpy(labels_of(cache, split))[rows], seed=seed)
        rows = rows[order[evenly_spaced(MOST_POINTS, len(order))]].sort().values
    with head_arithmetic(str(device)):
        features, _ = stored_rows(cache, split, device).take(rows)
        points, shares = principal_plane(features)
    scale = float(points.abs().max()) or 1.0
    return FeatureMap(
        split=split,
        rows=tuple(rows.tolist()),
        points=tuple((round(x, _DIGITS), round(y, _DIGITS)) for x, y in (points / scale).tolist()),
        shares=shares,
        seed=seed,
    )


def principal_plane(features: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Project (N, D) rows on the two directions in which they vary most.

    Of the two matrices that have the directions the smaller one is decomposed: that of the products
    of rows, or that of features.

    Returns:
        (N, 2) float64, and the share of the variance along each direction.
    """
    centred = features - features.mean(0)
    n, d = centred.shape
    is_wide = n <= d
    products = (centred @ centred.T if is_wide else centred.T @ centred).double()
    values, vectors = torch.linalg.eigh(products)
    variances = values.clamp(min=0).flip(0)
    total = float(variances.sum()) or 1.0
    # One image, or one feature, has one direction or none.
    largest = torch.nn.functional.pad(variances[:2], (0, max(0, 2 - len(variances))))
    directions = torch.nn.functional.pad(vectors.flip(1)[:, :2], (0, max(0, 2 - len(values))))
    points = directions * largest.sqrt() if is_wide else centred.double() @ directions
    # The sign of a direction is of no meaning; here it is the same each time.
    extreme = points.gather(0, points.abs().argmax(0, keepdim=True))
    shares = (largest / total).tolist()
    return points * torch.where(extreme < 0, -1.0, 1.0), (shares[0], shares[1])
