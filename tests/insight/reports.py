"""Reports in tests: written into the folder of a test, and read again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from featcache.insight.report.report import ReportResult
from featcache.training.train_result import TrainResult
from tests.insight.pages import read

Train = Callable[..., TrainResult]


Report = Callable[..., ReportResult]


SECTIONS = [
    *("systems", "cost", "curves", "classes", "reliability", "map", "mistakes", "provenance"),
]


def anchors(page: Path) -> list[str]:
    """The sections of a page, in order."""
    tags = read(page.read_text()).tags
    return [str(attributes["id"]) for tag, attributes in tags if tag == "section"]


def body(page: Path) -> str:
    """A page without its last line, which holds the day."""
    return page.read_text().partition("<footer>")[0]


def words(page: Path) -> str:
    """What a page says, without its markup."""
    without = re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", without))
