"""What tests of an answer share: a small cache of digits, quickly made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import featcache
from featcache.extraction.result import ExtractResult
from tests.conftest import SMALL_BACKBONE

Extract = Callable[..., ExtractResult]


@pytest.fixture
def of_digits(tmp_path: Path) -> Extract:
    """`featcache.extract` of a few digits, through a small random backbone at 32 px."""
    return partial(
        featcache.extract,
        "digits",
        backbone=SMALL_BACKBONE,
        weights="random",
        image_size=32,
        batch_size=4,
        limit=8,
        compile="never",
        cache_dir=tmp_path / "cache",
    )
