"""What an exported file says of itself is true, and names no place of the machine it is from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.deployment.exports.check_images import images_for_check
from featcache.heads.head_file import save_head
from tests.conftest import save_image


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 70 images in two classes."""
    folder = tmp_path_factory.mktemp("place") / "pets"
    for i in range(70):
        save_image(folder / ("cat" if i % 2 else "dog") / f"{i:02d}.png", i, size=(8, 8))
    return folder


@pytest.fixture(scope="module")
def run(pets: Path) -> Path:
    """A head on the pixels of a folder, found by logistic regression."""
    place = pets.parent
    cache = featcache.extract(
        f"folder:{pets}", backbone="pixels", image_size=8, cache_dir=place / "cache"
    )
    options: dict[str, Any] = {"solver": "logreg", "C": (0.01, 1.0), "runs_dir": place / "runs"}
    return featcache.train_head(cache.path, **options).path


def exported(run: Path, out: Path, **options: Any) -> featcache.ExportedModel:
    cache = run.parents[2] / "cache"
    return featcache.export(run, out=out, format="safetensors", cache_dir=cache, **options)


def test_the_folder_of_the_check_is_told_by_its_name_alone(
    run: Path, pets: Path, tmp_path: Path
) -> None:
    made = exported(run, tmp_path / "x.safetensors")

    assert made.check is not None
    assert made.check.images == "folder-pets (train)"
    for path in (made.model, made.about, made.card):
        assert str(pets.parent).encode() not in path.read_bytes()


def test_a_folder_that_was_typed_is_told_by_its_name_alone(run: Path, pets: Path) -> None:
    head = featcache.load_head(run)

    images = images_for_check(head, check=str(pets), size=None, data_dir=pets)

    assert images.told == "images-pets (all)"
    assert images.name == f"images:{pets} (all)"


def test_a_card_tells_that_the_validation_images_trained_the_head_too(
    run: Path, tmp_path: Path
) -> None:
    card = exported(run, tmp_path / "x.safetensors", unchecked=True).card.read_text()

    assert (
        "56 images trained the head, 14 validated it and then, once they had chosen, trained it "
        "too: a fifth of the split 'train', chosen by chance with the seed 42."
    ) in card
    assert "Of split val, by the training, before these images trained the head too:" in card


def test_a_card_of_a_head_without_validation_names_none(run: Path, tmp_path: Path) -> None:
    head = featcache.load_head(run)
    split = {
        "train": {**head.split["train"], "n_rows": 70},
        "val": {**head.split["val"], "n_rows": 0},
    }
    folder = tmp_path / "other"
    folder.mkdir()
    train = replace(head.train, val_fraction=0)
    save_head(folder, replace(head, split=split, train=train, found={"C": 1.0}))

    card = featcache.export(
        folder, out=tmp_path / "x.safetensors", format="safetensors", unchecked=True
    ).card.read_text()

    assert "70 images of the split 'train' trained the head, and none validated it." in card
