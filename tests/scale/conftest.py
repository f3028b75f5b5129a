"""A cache in shares."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import featcache
from featcache.scale.plan_file import PartsPlan, read_plan
from tests.paces import blocks_of
from tests.scale.kinds import BATCH_SIZE, Kind, image_files
from tests.scale.moto_server import environment, moto_server

N_SHARES = 3
N_PARTS_THERE = 2
_NUMBERS = itertools.count()


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


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def url(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of the test's own in the store."""
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/tests/{next(_NUMBERS)}"


@pytest.fixture
def there(kind: Kind, url: str) -> featcache.ExtractSpec:
    """What is asked of each share."""
    return replace(kind.spec(Path("unused")), cache_dir=url)


@pytest.fixture
def folder(there: featcache.ExtractSpec) -> str:
    """The URL of a folder in which all parts are."""
    for index in range(N_PARTS_THERE):
        result = featcache.extract_share(there, share=f"{index}/{N_PARTS_THERE}")
    return result.next.split()[-1]
