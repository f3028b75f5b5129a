"""Images in one file are known by its stat: none is read again while it is as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featcache.images.datasets import load_dataset
from featcache.images.packed_images import PackedImages
from featcache.images.splits import Look
from featcache.images.stat_index import KnownFiles
from tests.conftest import save_image
from tests.images.containers import CONTAINERS, files_below
from tests.images.test_stat_index import POISON, READER, later

Load = Callable[[], PackedImages]


@pytest.fixture(params=["zip", "tar", "Parquet"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Load the training images of a container of six."""
    for i in range(8):
        place = f"{'train' if i < 6 else 'test'}/{'cat' if i % 2 else 'dog'}/{i}.png"
        save_image(tmp_path / "files" / place, i, size=(4, 5))
    (tmp_path / "set").mkdir()
    name = CONTAINERS[request.param](files_below(tmp_path / "files"), tmp_path / "set")

    def load_images() -> PackedImages:
        images = load_dataset(name, data_dir=tmp_path).splits["train"].images
        assert isinstance(images, PackedImages)
        return images

    return load_images


def digests(images: PackedImages, known: KnownFiles | None = None) -> list[bytes]:
    found = [look.digest for look in images.looks(known)]
    if known is not None:
        known.save()
    return found


def poison(images: PackedImages, row: int) -> Path:
    """Write an index that has a wrong digest of a row: whoever gives it did not read the image."""
    number, name = images.place_of(row)
    pack = Path(images.packs[number])
    known = later()
    known.below(str(pack)).add(name, pack.stat(), Look(POISON), reader=READER)
    known.save()
    return pack


def test_images_are_not_read_while_their_file_is_as_it_was(load: Load) -> None:
    truth = digests(load())
    pack = poison(load(), 2)

    assert digests(load(), later()) == [*truth[:2], POISON, *truth[3:]]
    os.utime(pack, ns=(1, 1))
    assert digests(load(), later()) == truth


def test_rehash_reads_them_all(load: Load) -> None:
    truth = digests(load())
    poison(load(), 2)

    assert digests(load(), later(rehash=True)) == truth


def test_what_a_part_of_the_rows_left_known_stays_known(load: Load) -> None:
    truth = digests(load())
    poison(load(), 0)

    part = digests(load().take(np.array([4, 5])), later())
    whole = digests(load(), later())

    assert part == truth[4:]
    assert whole == [POISON, *truth[1:]]
