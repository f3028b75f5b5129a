"""What tests of stage one share beside the folder of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.extraction.result import ExtractResult
from tests import paces

Extract = Callable[..., ExtractResult]


def specs(
    source: str, names: tuple[str, ...], options: Mapping[str, Any]
) -> list[featcache.ExtractSpec]:
    """What `extract` is asked with these options, for each backbone."""
    asked = {n: str(v) if isinstance(v, Path) else v for n, v in options.items()}
    return [featcache.ExtractSpec(**{**asked, "dataset": source, "backbone": n}) for n in names]


@pytest.fixture
def small_blocks() -> Iterator[None]:
    """Blocks of two batches, so that a small dataset has several."""
    with paces.small_blocks():
        yield
