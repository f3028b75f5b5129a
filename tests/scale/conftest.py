"""A cache in shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import featcache
from featcache.scale.plan_file import PartsPlan, read_plan
from tests.paces import blocks_of
from tests.scale.kinds import BATCH_SIZE, Kind, image_files

N_SHARES = 3


@pytest.fixture(autouse=True)
def _small_blocks() -> Iterator[None]:
    """Blocks of one batch: 14 images to train and 5 to test are 4 and 2 blocks."""
    with blocks_of(BATCH_SIZE):
        yield


@pytest.fixture
def kind(tmp_path: Path) -> Kind:
    """A folder of images to pixels."""
    image_files(tmp_path / "images")
    return Kind("pixels", f"folder:{tmp_path}/images", {"backbone": "pixels", "image_size": 8})


@pytest.fixture
def spec(kind: Kind, tmp_path: Path) -> featcache.ExtractSpec:
    """What is asked of each share."""
    return kind.spec(tmp_path / "cache")


def all_shares(spec: featcache.ExtractSpec, n: int = N_SHARES) -> PartsPlan:
    """Compute every share, and give their plan."""
    for index in range(n):
        featcache.extract_share(spec, share=f"{index}/{n}")
    [path] = Path(spec.cache_dir).glob("*/*.parts/plan.json")
    return read_plan(path.parent)


@pytest.fixture
def plan(spec: featcache.ExtractSpec) -> PartsPlan:
    """The plan of a folder in which all parts are there."""
    return all_shares(spec)
