"""Photographs of two classes; and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.insight.report.report import ReportResult
from tests.insight.photographs import save_photograph
from tests.insight.reports import Report


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes; 60 images in train, 20 in test."""
    root = tmp_path / "photographs"
    for i in range(80):
        split = "train" if i < 60 else "test"
        save_photograph(root / split / ("cat" if i % 2 else "dog") / f"{i:02d}.png", i)
    return root


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """`featcache.report` into the test's folder, with few draws."""

    def run(*runs: Any, **options: Any) -> ReportResult:
        options = {"draws": 20, "out": tmp_path / "report.html", **options}
        place = {"cache_dir": tmp_path / "cache", "runs_dir": tmp_path / "runs"}
        return featcache.report([*runs] or None, **place, **options)

    return run
