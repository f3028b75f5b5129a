"""What tests of an answer share: a small cache of digits, quickly made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import featcache
from featcache.extraction.result import ExtractResult
from tests.conftest import SMALL_BACKBONE
from tests.deployment.heads import save_random_head

N_TEST = 8
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


@pytest.fixture
def run(of_digits: Extract, tmp_path: Path) -> Path:
    """A head on eight digits of each split."""
    return save_random_head(of_digits().path, tmp_path / "runs" / "digits" / "a").path.parent


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The eight test digits as files, lossless."""
    folder = tmp_path / "photos"
    folder.mkdir()
    digits = featcache.load_dataset("digits", data_dir="data").limited(N_TEST).splits["test"]
    for i, pixels in enumerate(digits.images.pixels):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder
