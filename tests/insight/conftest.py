"""Photographs of a kind, smooth images of which copies can be made; and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import featcache
from featcache.extraction.result import ExtractResult
from featcache.insight.report.report import ReportResult
from tests.insight.reports import Report


def save_photograph(path: Path, seed: int, *, side: int = 48) -> None:
    """Write an image with light and dark places, which differ from seed to seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path, "png")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes; 60 images in train, 20 in test."""
    root = tmp_path / "photographs"
    for i in range(80):
        split = "train" if i < 60 else "test"
        save_photograph(root / split / ("cat" if i % 2 else "dog") / f"{i:02d}.png", i)
    return root


def extracted(folder: Path, tmp_path: Path, **options: object) -> ExtractResult:
    """The images themselves, at 16 px, as a cache."""
    options.setdefault("cache_dir", tmp_path / "cache")
    return featcache.extract(
        f"folder:{folder}", backbone="pixels", image_size=16, n_workers=0, **options
    )


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """`featcache.report` into the test's folder, with few draws."""

    def run(*runs: Any, **options: Any) -> ReportResult:
        options = {"draws": 20, "out": tmp_path / "report.html", **options}
        place = {"cache_dir": tmp_path / "cache", "runs_dir": tmp_path / "runs"}
        return featcache.report([*runs] or None, **place, **options)

    return run
