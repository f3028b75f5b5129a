"""torchvision's sets are known by their files: neither opened nor read where nothing changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import featcache
from featcache.errors import DatasetError
from tests.conftest import save_image

RECALLED = "images, weights and versions are those of the cache (--rehash reads all files)"
Outcome = Callable[[str], tuple[str, bool]]


@pytest.fixture
def outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Say what an extraction came to seconds after files were written, and if it was recalled."""
    clock = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() + 10_000_000_000)

    def run(dataset: str) -> tuple[str, bool]:
        notes: list[str] = []
        result = featcache.extract(
            dataset,
            backbone="pixels",
            image_size=8,
            n_workers=0,
            cache_dir=tmp_path / "cache",
            data_dir=tmp_path / "data",
            on_note=notes.append,
        )
        return result.outcome, RECALLED in notes

    return run


def test_torchvisions_files_are_known_and_a_changed_one_is_found(
    place: Callable[[str, Path], None], outcome: Outcome, tmp_path: Path
) -> None:
    place("KMNIST", tmp_path / "data")
    kmnist = partial(outcome, "torchvision:kmnist")
    assert [kmnist(), kmnist()] == [("computed", False), ("reused", True)]

    file = tmp_path / "data/KMNIST/raw/train-images-idx3-ubyte"
    status = file.stat()
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"\x07")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert [kmnist(), kmnist()] == [("computed", False), ("reused", True)]
    file.unlink()
    with pytest.raises(DatasetError, match="KMNIST"):
        kmnist()


def test_image_files_of_torchvision_are_known_and_a_changed_one_is_found(
    place: Callable[[str, Path], None], outcome: Outcome, tmp_path: Path
) -> None:
    place("EuroSAT", tmp_path / "data")
    eurosat = partial(outcome, "torchvision:EuroSAT")
    assert [eurosat(), eurosat()] == [("computed", False), ("reused", True)]

    save_image(tmp_path / "data/eurosat/2750/Forest/image_0001.png", 1)

    assert [eurosat(), eurosat()] == [("computed", False), ("reused", True)]
