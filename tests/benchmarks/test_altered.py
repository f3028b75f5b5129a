"""Heads on altered rows are those of a cache that holds such rows; their results are kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache
import featcache.features.rows
from featcache.config import HeadSpec, TrainSpec
from tests.benchmarks.altered import AlteredRows, AlteredTraining
from tests.benchmarks.feature_scale import between, scaled_state
from tests.benchmarks.feature_scale_page import FIGURES, SYSTEM_NAMES, chosen_scale, page, picture
from tests.benchmarks.resultfile import ResultFile, save_picture
from tests.benchmarks.shares import as_float16, as_it_is, setting
from tests.benchmarks.shares import page as shares_page
from tests.feature_caches import CLASS_NAMES, IDENTITY, FeatureRecipe, learnable_rows
from tests.store.conftest import Rows

TRAIN = TrainSpec(max_epochs=2, patience=0, batch_size=16, lr=1e-2)
HEADS = {reg: HeadSpec(reg=reg, hidden=(8, 6)) for reg in ("none", "l1l2", "dropout")}


def cache_of(path: Path, *, factor: float = 1.0, dtype: str = "<f4") -> featcache.Cache:
    """Write a cache of 200 rows to train and 60 to test, times a factor."""
    splits = {"train": learnable_rows(200, seed=1, unreadable=(5,))}
    splits["test"] = learnable_rows(60, seed=2, unreadable=(7,))
    for name, rows in splits.items():
        features = (rows.features * np.float32(factor)).astype(dtype)
        splits[name] = Rows(features, rows.labels, rows.ids, rows.reasons)
    recipe = FeatureRecipe(
        path, rows_per_block=64, identity=IDENTITY, class_names=CLASS_NAMES, splits=splits
    )
    return featcache.open_cache(recipe.build())


def by_train_head(cache: featcache.Cache, head: HeadSpec, runs: Path) -> tuple[float, ...]:
    [run] = featcache.train_head(
        cache,
        reg=head.reg,
        hidden=head.hidden,
        dropout=head.dropout or None,
        lr=TRAIN.lr,
        batch_size=TRAIN.batch_size,
        max_epochs=TRAIN.max_epochs,
        patience=TRAIN.patience,
        select=TRAIN.select,
        device="cpu",
        runs_dir=runs,
    ).runs
    assert run.test_acc is not None
    assert run.test_loss is not None
    return run.test_acc, run.test_loss, run.val_loss


@pytest.fixture
def training(tmp_path: Path) -> AlteredTraining:
    return AlteredTraining(cache_of(tmp_path / "cache.h5"), device="cpu")


@pytest.mark.parametrize("reg", HEADS)
def test_rows_scaled_on_their_way_give_the_bits_of_a_cache_of_scaled_rows(
    training: AlteredTraining, tmp_path: Path, reg: str
) -> None:
    scaled = cache_of(tmp_path / "scaled.h5", factor=0.125)

    found = training.figures(HEADS[reg], TRAIN, alter=partial(torch.mul, other=0.125))

    expected = by_train_head(scaled, HEADS[reg], tmp_path / "scaled")
    assert tuple(found[name] for name in ("test_acc", "test_loss", "val_loss")) == expected
    assert expected[1] != by_train_head(training.cache, HEADS[reg], tmp_path / "as-they-are")[1]


def test_rows_rounded_on_their_way_give_the_bits_of_a_cache_stored_as_float16(
    training: AlteredTraining, tmp_path: Path
) -> None:
    stored = cache_of(tmp_path / "float16.h5", dtype="<f2")

    found = training.figures(HEADS["none"], TRAIN, alter=as_float16)

    expected = by_train_head(stored, HEADS["none"], tmp_path / "runs")
    assert tuple(found[name] for name in ("test_acc", "test_loss", "val_loss")) == expected


def test_a_share_of_the_rows_trains_and_all_of_them_are_as_without(
    training: AlteredTraining, tmp_path: Path
) -> None:
    tenth = training.figures(HEADS["none"], TRAIN, alter=as_it_is, share=0.1)
    whole = training.figures(HEADS["none"], TRAIN, alter=as_it_is)

    assert (tenth["n_train"], whole["n_train"]) == (16, 159)  # one image could not be read
    expected = by_train_head(training.cache, HEADS["none"], tmp_path / "runs")
    assert (whole["test_acc"], whole["test_loss"]) == expected[:2]


def test_a_library_that_loads_its_rows_otherwise_is_noticed(
    training: AlteredTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AlteredRows, "pick", lambda self, places: self.rows.pick(places))

    with pytest.raises(AssertionError, match=r"^0 altered rows were taken, not"):
        training.figures(HEADS["none"], TRAIN, alter=partial(torch.mul, other=0.5))


def test_rows_that_come_out_as_they_were_are_noticed(
    training: AlteredTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unaltered(self: AlteredRows, places: torch.Tensor) -> Any:
        self.n_taken += len(places)
        return self.rows.pick(places)

    monkeypatch.setattr(AlteredRows, "pick", unaltered)

    with pytest.raises(AssertionError, match="on altered rows"):
        training.figures(HEADS["none"], TRAIN, alter=partial(torch.mul, other=0.5))


def test_a_result_file_goes_on_and_refuses_other_options(tmp_path: Path) -> None:
    ResultFile(tmp_path / "x.json", {"cache": "a"}, device="cpu").add({"seed": 0, "loss": 2.0})

    again = ResultFile(tmp_path / "x.json", {"cache": "a"}, device="cpu")

    assert again.has(seed=0)
    assert not again.has(seed=1)
    assert again.spread("loss", seed=0).mean == 2.0
    with pytest.raises(AssertionError, match="was begun with"):
        ResultFile(tmp_path / "x.json", {"cache": "b"}, device="cpu")


def test_a_scale_that_is_there_is_not_trained_again_under_another_name(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "x.json", {}, device="cpu")
    for scale, loss in {"1/4": 0.5, "1/8": 0.66681, "1/16": 0.9}.items():
        file.add({"scale": scale, "system": "vgg16", "seed": 0, "test_loss": loss})

    assert between(file, ["1/4", "1/8", "1/16"]) == "1/8"


def test_the_scale_is_chosen_by_the_plain_systems_loss_alone(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "x.json", {}, device="cpu")
    # Plain's loss is nearest to 0.6668 at 1/2, dropout's nearest to 1.0495 at 1.
    losses = {"1": (0.5, 0.5, 1.04), "1/2": (0.7, 0.7, 1.2)}
    for scale, of_systems in losses.items():
        for system, loss in zip(SYSTEM_NAMES, of_systems, strict=True):
            for seed in (0, 1):
                figures = {"test_acc": 0.8 - seed / 1000, "test_loss": loss + seed / 1000}
                file.add({"scale": scale, "system": system, "seed": seed, **figures})

    text = page(file)
    save_picture(picture(file), tmp_path / "x.svg")

    assert chosen_scale(file) == "1/2"
    # The mean losses are 0.5005 and 0.7005: 0.8315 of the way from 1 down to 1/2.
    assert between(file, ["1", "1/2"]) == "0.562"
    assert between(file, ["1"]) is None
    row = "| vgg16-l1l2 | test_loss | 0.6868 | 0.7005 ± 0.0007 (2) | 0.6895 to 0.7115 | no |"
    assert row in text
    assert "| 1 | vgg16-dropout minus vgg16 | +0.0000 (0.0000 to 0.0000) | +0.5400 (" in text
    assert (tmp_path / "x.svg").read_bytes().startswith(b"<?xml")
    assert FIGURES == ("test_acc", "test_loss")


def test_only_the_last_convolution_is_scaled(tmp_path: Path) -> None:
    state = {
        f"features.{i}.{kind}": torch.full((3,), float(i + 1)).half()
        for i in (0, 2, 28)
        for kind in ("weight", "bias")
    }
    torch.save(state, tmp_path / "weights.pth")

    scaled = scaled_state(tmp_path / "weights.pth", 0.25)

    for name, tensor in state.items():
        factor = 0.25 if name.startswith("features.28.") else 1
        assert torch.equal(scaled[name], tensor.float() * factor)


def test_a_small_share_has_the_patience_of_few_steps(training: AlteredTraining) -> None:
    _, small = setting(training.cache, 0.1, recipe="general", max_epochs=None)
    _, notebooks = setting(training.cache, 1.0, recipe="notebook", max_epochs=None)
    _, by_hand = setting(training.cache, 1.0, recipe="general", max_epochs=7)

    assert (small.patience, small.max_epochs) == (100, 100)  # one step an epoch: 20 times 5
    assert (notebooks.lr, notebooks.max_epochs, notebooks.select) == (1e-5, 5, "last")
    assert (by_hand.lr, by_hand.max_epochs) == (1e-3, 7)


def test_the_page_of_shares_compares_heads_of_the_same_seed(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "x.json", {"cache": "a", "recipe": "general"}, device="cpu")
    for seed, (single, half) in enumerate(((0.80, 0.81), (0.90, 0.91), (0.70, 0.71))):
        for stored, accuracy in (("float32", single), ("float16", half)):
            figures = {"test_acc": accuracy, "test_loss": 1.0, "n_train": 40, "n_epochs": 5}
            file.add({"share": 100.0, "stored": stored, "seed": seed, **figures})

    text = shares_page(file)

    assert "| 100% | 40 | float32 | 0.8000 ± 0.1000 (3) | 1.0000 ± 0.0000 (3) | 5.0 |" in text
    assert "test_acc +0.01000 (95% interval of the mean: 0.0100 to" in text
