"""Rows of features whose classes have other numbers of images."""

from __future__ import annotations

import numpy as np

from tests.feature_caches import Rows, learnable_rows


def rows_of(*n_of_class: int, seed: int) -> Rows:
    """Rows of unequal classes."""
    rows = learnable_rows(3 * max(n_of_class), seed=seed)
    assert rows.labels is not None
    kept = np.concatenate([np.flatnonzero(rows.labels == k)[:n] for k, n in enumerate(n_of_class)])
    ids = [rows.ids[i] for i in kept]
    return Rows(rows.features[kept], rows.labels[kept], ids, {})
