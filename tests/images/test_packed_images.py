"""Images in one file are known by its stat: none is read again while it is as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featcache.errors import MismatchError
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
    pack, name = Path(images.pack_of(row).path), images.place_of(row)
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


def test_a_file_that_changed_between_its_directory_and_its_images_is_refused(load: Load) -> None:
    images = load()
    pack = Path(images.pack_of(0).path)
    pack.write_bytes(pack.read_bytes())

    for known in (None, later()):
        with pytest.raises(MismatchError, match="is another file than when the dataset was opened"):
            digests(images, known)


def test_a_link_that_is_switched_before_the_file_is_opened_is_seen(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load()
    pack = Path(images.pack_of(0).path)
    real, switched = os.stat, pack.with_name("switched")
    switched.write_bytes(pack.read_bytes())

    def stat_then_switch(path: str, **options: bool) -> os.stat_result:
        status = real(path, **options)
        if path == str(pack) and switched.exists():
            switched.replace(pack)
        return status

    monkeypatch.setattr(os, "stat", stat_then_switch)

    with pytest.raises(MismatchError, match="is another file than when the dataset was opened"):
        digests(images, later())


def test_no_row_is_taken_from_the_file_that_was_there_before(load: Load) -> None:
    images = load()
    pack = Path(images.pack_of(0).path)
    images.read(0)
    pack.rename(pack.with_name("before"))

    with pytest.raises(FileNotFoundError):
        images.read(1)
