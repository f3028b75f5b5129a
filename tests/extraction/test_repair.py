from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import (
    CacheMissingError,
    DatasetError,
    FeatcacheError,
    InterruptedRunError,
    LockedError,
    MismatchError,
    UsageError,
)
from featcache.extraction.result import ExtractResult
from featcache.store import locked, partial_path, read_state, verify_cache
from tests.conftest import SMALL_BACKBONE, save_image
from tests.extraction.interruptions import StopAfter
from tests.paces import small_blocks

Extract = Callable[..., ExtractResult]


@pytest.fixture(autouse=True)
def _small_blocks() -> Iterator[None]:
    with small_blocks():
        yield


def damage(path: Path, split: str, row: int, column: str = "features") -> None:
    offset, _ = read_state(path).manifest.splits[split].columns[column].rows(row, row + 1)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def test_a_cache_without_a_split_that_its_folder_has_is_repaired(
    extract: Extract, image_folder: Path
) -> None:
    (image_folder / "test").rename(image_folder.parent / "Test")
    path = extract(backbone="pixels", weights="DEFAULT", image_size=20, batch_size=None).path
    sound = path.read_bytes()
    (image_folder.parent / "Test").rename(image_folder / "Test")  # 0.1 did not know that name
    damage(path, "train", 70)

    featcache.repair_cache(path)

    assert path.read_bytes() == sound


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"backbone": "pixels", "weights": "DEFAULT", "image_size": 20, "batch_size": None},
        {"bn": "adapted", "store_dtype": "float16"},
        {"preprocess": "weights", "limit": 100},
        {"weights": "random", "seed": 3},
    ],
)
def test_damaged_rows_are_computed_again_byte_for_byte(
    extract: Extract, options: dict[str, Any]
) -> None:
    path = extract(**options).path
    sound = path.read_bytes()
    damage(path, "train", 70)
    damage(path, "test", 3, "labels")
    assert len(verify_cache(path).damages) == 2

    report = featcache.repair_cache(path, n_workers=0)

    assert path.read_bytes() == sound
    assert not partial_path(path).exists()
    n_train = 36 if options.get("limit") == 100 else 64  # of the damaged block
    n_train = 128 if options.get("backbone") == "pixels" else n_train
    assert report.n_rows_computed == n_train + 10
    assert not report.was_sound
    assert featcache.repair_cache(path, n_workers=0).was_sound


def test_adapted_statistics_are_made_again(extract: Extract) -> None:
    path = extract(bn="adapted").path
    sound = path.read_bytes()
    statistics = read_state(path).manifest.statistics
    assert statistics is not None
    with path.open("r+b") as file:
        file.seek(statistics.offset)
        file.write(b"\xff\xff\xff\xff")

    report = featcache.repair_cache(path, n_workers=0)

    assert path.read_bytes() == sound
    assert report.mended == ("the backbone's running statistics",)


def test_a_copy_elsewhere_is_repaired_there(
    extract: Extract, image_folder: Path, tmp_path: Path
) -> None:
    path = extract().path
    sound = path.read_bytes()
    copy = tmp_path / "elsewhere" / "mine.h5"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    damage(copy, "train", 0)
    moved = image_folder.rename(tmp_path / "moved")

    featcache.repair_cache(copy, dataset=f"folder:{moved}", n_workers=0)

    assert copy.read_bytes() == sound


def test_a_relative_folder_is_found_from_any_folder(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is beside the cache's folder; where the command stands, another has its name."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / featcache.extract("folder:pets", backbone="pixels", image_size=8).path
    sound = path.read_bytes()
    for name in ("train/cat/1.png", "train/dog/2.png", "test/cat/1.png", "test/dog/2.png"):
        save_image(tmp_path / "elsewhere" / "pets" / name, 7)
    for folder in (tmp_path / "elsewhere", Path("/"), tmp_path):
        monkeypatch.chdir(folder)
        damage(path, "train", 0)

        featcache.repair_cache(path, n_workers=0)

        assert path.read_bytes() == sound


def test_a_relative_folder_that_is_nowhere_beside_is_looked_for_where_one_stands(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / featcache.extract("folder:pets", backbone="pixels", image_size=8).path
    other = tmp_path / "other"
    other.mkdir()
    image_folder.rename(other / "pets")
    damage(path, "train", 0)

    with pytest.raises(DatasetError, match="does not exist"):
        featcache.repair_cache(path, n_workers=0)
    monkeypatch.chdir(other)

    assert featcache.repair_cache(path, n_workers=0).n_rows_computed > 0


def test_other_images_are_refused_and_nothing_is_changed(
    extract: Extract, image_folder: Path
) -> None:
    path = extract().path
    damage(path, "train", 0)
    damaged = path.read_bytes()
    next(image_folder.glob("train/*/*.png")).unlink()

    with pytest.raises(MismatchError, match="dataset_sha256"):
        featcache.repair_cache(path, n_workers=0)
    assert path.read_bytes() == damaged


def test_a_weights_file_must_be_named(extract: Extract, tmp_path: Path) -> None:
    weights = tmp_path / "own.pth"
    module = featcache.backbones.load.load_backbone(SMALL_BACKBONE, weights="random", seed=5).module
    assert module is not None
    torch.save(module.state_dict(), weights)
    path = extract(weights=str(weights)).path
    sound = path.read_bytes()
    damage(path, "train", 0)

    with pytest.raises(UsageError, match=r"weights file 'own\.pth'"):
        featcache.repair_cache(path, n_workers=0)
    featcache.repair_cache(path, weights=str(weights), n_workers=0)

    assert path.read_bytes() == sound


def test_a_stopped_repair_goes_on(extract: Extract) -> None:
    path = extract().path
    sound = path.read_bytes()
    for row in (0, 64, 128, 192):
        damage(path, "train", row)

    with pytest.raises(InterruptedRunError, match=r"rows are kept in .*\.h5\. The same"):
        featcache.repair_cache(path, n_workers=0, on_progress=StopAfter(3))
    assert path.exists()
    assert not partial_path(path).exists()
    report = featcache.repair_cache(path, n_workers=0)

    assert 0 < report.n_rows_computed < 4 * 64
    assert path.read_bytes() == sound


def test_a_partial_file_is_completed(extract: Extract) -> None:
    whole = extract().path
    sound = whole.read_bytes()
    whole.unlink()
    with pytest.raises(InterruptedRunError):
        extract(on_progress=StopAfter(3))

    featcache.repair_cache(partial_path(whole), n_workers=0)

    assert whole.read_bytes() == sound
    whole.rename(partial_path(whole))  # all is there but its name
    notes: list[str] = []
    featcache.repair_cache(whole, n_workers=0, on_note=notes.append)
    assert whole.read_bytes() == sound
    assert "nothing to compute; the file gets its final name" in notes


def test_another_numeric_class_is_told_and_allowed_on_demand(
    extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = extract().path
    damage(path, "train", 0)
    monkeypatch.setattr(torch, "__version__", "0.0.1")

    with pytest.raises(MismatchError, match=r"started with different hardware, .*mix-numerics"):
        featcache.repair_cache(path, n_workers=0)
    assert path.exists()
    featcache.repair_cache(path, n_workers=0, mix_numerics=True)

    assert verify_cache(path).is_sound
    assert featcache.describe_cache(path).n_foreign_blocks == 1


def test_a_cache_in_work_or_missing_is_refused(extract: Extract, tmp_path: Path) -> None:
    path = extract().path
    with locked(path), pytest.raises(LockedError):
        featcache.repair_cache(path)
    with pytest.raises(CacheMissingError):
        featcache.repair_cache(tmp_path / "none.h5")


def test_rows_are_right_after_a_lost_ledger_slot(extract: Extract) -> None:
    path = extract().path
    sound = path.read_bytes()
    ledger = read_state(path).manifest.ledger
    with path.open("r+b") as file:
        file.seek(ledger.offset + 2 * 64)
        file.write(np.full(64, 255, np.uint8).tobytes())

    report = featcache.repair_cache(path, n_workers=0)

    assert report.mended == ("ledger slot 2, emptied",)
    assert path.read_bytes() == sound


def test_an_older_partial_file_beside_it_is_left_alone(extract: Extract) -> None:
    path = extract().path
    sound = path.read_bytes()
    damage(path, "train", 0)
    older = sound[:-1]
    partial_path(path).write_bytes(older)

    featcache.repair_cache(path, n_workers=0)

    assert path.read_bytes() == sound
    assert partial_path(path).read_bytes() == older


def test_no_lock_is_left_beside_a_strangers_file(tmp_path: Path) -> None:
    """A lock tells `remove_cache` that the file beside it is a cache."""
    stranger = tmp_path / "mine.h5"
    stranger.write_bytes(b"somebody's only copy" * 1000)

    for act in (featcache.repair_cache, featcache.remove_cache):
        with pytest.raises(FeatcacheError):
            act(stranger)

    assert [path.name for path in tmp_path.iterdir()] == ["mine.h5"]


def test_a_mistyped_path_makes_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    for path in (tmp_path / "cahce" / "digits" / "vgg16-1a2b3c4d.h5", "~/cahce/x.h5.partial"):
        with pytest.raises(CacheMissingError, match=r"There is no cache at .*/cahce/"):
            featcache.repair_cache(path)

    assert list(tmp_path.iterdir()) == []
