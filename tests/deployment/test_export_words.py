"""What an exported file says of itself is true, and names no place of the machine it is from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import featcache
from featcache.deployment.exports.about import head_limits
from featcache.deployment.exports.card import card
from featcache.deployment.exports.check import CheckReport
from featcache.deployment.exports.check_images import images_for_check
from featcache.deployment.exports.run_facts import RunFacts
from featcache.deployment.exports.targets import target_of
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


def test_a_small_test_split_is_checked_with_images_of_other_splits_too(
    run: Path, tmp_path: Path
) -> None:
    for i in range(64):
        save_image(tmp_path / "photos" / ("test" if i < 20 else "train") / "cat" / f"{i}.png", i)
    head, check = featcache.load_head(run), f"folder:{tmp_path}/photos"

    images = images_for_check(head, check=check, size=None, data_dir=tmp_path)

    assert images.told == "folder-photos (test, train)"
    assert len(list(images.taken(featcache.Preprocess.notebook(8)))) == 64


def test_a_card_tells_that_the_validation_images_trained_the_head_too(
    run: Path, tmp_path: Path
) -> None:
    text = exported(run, tmp_path / "x.safetensors", unchecked=True).card.read_text()

    assert (
        "56 images trained the head, 14 validated it and then, once they had chosen, trained it "
        "too: a fifth of the split 'train', chosen by chance with the seed 42."
    ) in text
    assert "Of split val, by the training, before these images trained the head too:" in text


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

    text = featcache.export(
        folder, out=tmp_path / "x.safetensors", format="safetensors", unchecked=True
    ).card.read_text()

    assert "70 images of the split 'train' trained the head, and none validated it." in text


def test_standardising_is_part_of_the_first_layer_and_the_file_is_read_so(
    run: Path, tmp_path: Path
) -> None:
    made = exported(run, tmp_path / "x.safetensors", unchecked=True)
    head = featcache.load_head(run).module()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8))

    network = featcache.load_exported(made.model)

    with safe_open(made.model, framework="np") as file:
        assert [name for name in file.keys() if "head" in name] == ["head.0.bias", "head.0.weight"]  # noqa: SIM118
    assert json.loads(made.about.read_text())["head"]["solver"]["features"] == "raw"
    assert "features standardised (in its first layer)" in made.card.read_text()
    wanted = head(((images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).flatten(1)).softmax(1)
    torch.testing.assert_close(network(images), wanted, rtol=0, atol=1e-5)


def test_a_check_in_which_classes_differ_is_told_among_the_limits(
    run: Path, tmp_path: Path
) -> None:
    made = exported(run, tmp_path / "x.safetensors", unchecked=True)
    target = target_of(made.path, format="safetensors", overwrite=True)
    same = CheckReport(64, "digits (test)", (1, 7, 56), 0.01, 64, 0.05)
    apart = replace(same, n_same_top1=62)

    text = card(json.loads(made.about.read_text()), RunFacts(), apart, target)

    assert same.limits_told == ()
    assert apart.limits_told == (
        "In the check, 2 of 64 images got another class than PyTorch gives them. Its probabilities "
        "of the two classes are less than 0.1 apart, twice the tolerance.",
    )
    assert f"- {apart.limits_told[0]}\n" in text


def test_a_head_that_was_stopped_and_features_of_float16_are_told(
    run: Path, tmp_path: Path
) -> None:
    stopped = replace(featcache.load_head(run), is_finished=False, n_epochs=3)
    folder = tmp_path / "stopped"
    folder.mkdir()
    save_head(folder, stopped)
    notes: list[str] = []

    made = featcache.export(
        folder,
        out=tmp_path / "x.safetensors",
        format="safetensors",
        unchecked=True,
        on_note=notes.append,
    )

    told = "The training was stopped: the head is that of epoch 3."
    assert told in notes
    assert f"- {told}\n" in made.card.read_text()
    assert head_limits(featcache.load_head(run), "float32") == []
    assert "features rounded to float16" in head_limits(stopped, "float16")[1]
