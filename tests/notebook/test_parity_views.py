"""Training on cached views is training end to end on the views that are drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import featcache
from featcache.errors import UsageError
from featcache.notebook.parity import ParityReport

Parity = Callable[..., ParityReport]


@pytest.fixture
def parity(tmp_path: Path) -> Parity:
    """24 digits of each split, three views of those that train."""
    return partial(
        featcache.parity,
        dataset="digits",
        backbone="resnet18",
        weights="random",
        image_size=32,
        views=3,
        limit=24,
        epochs=2,
        batch_size=8,
        cache_dir=tmp_path,
    )


def stored_views(folder: Path) -> npt.NDArray[Any]:
    """The views in the cache that parity made, to be written into."""
    [summary] = featcache.list_caches(folder)
    extent = featcache.open_cache(summary.path)["train"].columns["features"]
    return np.memmap(summary.path, extent.dtype, "r+", extent.offset, extent.shape)


def holding(report: ParityReport) -> dict[str, bool]:
    return {check.what: check.holds for check in report.checks}


def test_it_holds_for_views(parity: Parity, tmp_path: Path) -> None:
    report = parity()

    assert report.holds
    assert len(report.checks) == 5
    losses = next(check for check in report.checks if "step's loss" in check.what)
    assert losses.figure < 1e-5
    assert "6 steps over 24 images" in losses.detail
    assert stored_views(tmp_path).shape[:2] == (24, 3)
    [summary] = featcache.list_caches(tmp_path)
    assert featcache.parity(summary.path, levels=(1,), limit=24).holds


def test_views_in_another_order_are_caught(parity: Parity, tmp_path: Path) -> None:
    assert parity(levels=(1,)).holds
    stored = stored_views(tmp_path)
    stored[:, [1, 2]] = stored[:, [2, 1]]

    held = holding(parity())

    assert not held["largest difference / largest feature"]
    assert not held["largest relative difference of a step's loss"]


def test_views_that_are_all_plain_are_caught(parity: Parity, tmp_path: Path) -> None:
    assert parity(levels=(1,)).holds
    stored = stored_views(tmp_path)
    stored[:, 1:] = stored[:, :1]

    held = holding(parity())

    assert not held["largest difference / largest feature"]
    assert not held["largest relative difference of a step's loss"]


def test_views_cannot_be_said_beside_a_cache() -> None:
    with pytest.raises(UsageError, match="so --views cannot be said beside it"):
        featcache.parity("some.h5", views=2)
