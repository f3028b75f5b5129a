"""What Python hands over is brought to one type, or refused by name and value before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache
from featcache.config import ExtractSpec, HeadSpec
from featcache.errors import UsageError


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 60 digits."""
    folder = tmp_path_factory.mktemp("cache")
    return featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=30, cache_dir=folder
    ).path


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"image_size": np.int64(32), "seed": np.uint8(3)}, {"image_size": 32, "seed": 3}),
        ({"n_workers": "auto", "batch_size": "auto"}, {"n_workers": None, "batch_size": None}),
        ({"dataset": Path("pets")}, {"dataset": "folder:pets"}),
        ({"dataset": Path("folder:pets")}, {"dataset": "folder:pets"}),
        (
            {"weights": Path("w/a.pth"), "data_dir": Path("d")},
            {"weights": "w/a.pth", "data_dir": "d"},
        ),
        ({"device": torch.device("cuda", 1)}, {"device": "cuda:1"}),
        (
            {"mix_numerics": np.True_, "bn": np.str_("adapted")},
            {"mix_numerics": True, "bn": "adapted"},
        ),
    ],
)
def test_an_extraction_takes_what_means_the_same(
    given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    spec = ExtractSpec(**given)

    assert spec == ExtractSpec(**wanted)
    for name in wanted:
        assert type(getattr(spec, name)) is type(getattr(ExtractSpec(**wanted), name))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"hidden": 16}, {"hidden": (16,)}),
        ({"hidden": [np.int32(16), 8]}, {"hidden": (16, 8)}),
        ({"hidden": np.array([16, 8])}, {"hidden": (16, 8)}),
        ({"reg": "dropout", "dropout": 0.25}, {"reg": "dropout", "dropout": (0.25, 0.25)}),
        ({"reg": "dropout", "dropout": [0.5, 0]}, {"reg": "dropout", "dropout": (0.5, 0.0)}),
        ({"reg": "l1", "l1": np.float64(0.1)}, {"reg": "l1", "l1": 0.1}),
        ({"reg": "l2", "weight_decay": 1}, {"reg": "l2", "weight_decay": 1.0}),
    ],
)
def test_a_head_takes_what_means_the_same(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    spec = HeadSpec(**given)

    assert spec == HeadSpec(**wanted)
    assert {type(width) for width in spec.hidden} == {int}
    assert {type(p) for p in (*(spec.dropout or ()), spec.l1, spec.weight_decay)} == {float}


def test_a_learning_rate_of_1_and_one_of_1_0_are_one_run(pixels: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 1, "runs_dir": tmp_path}

    first = featcache.train_head(pixels, lr=1.0, batch_size=16, **options)
    again = featcache.train_head(str(pixels), lr=np.int64(1), batch_size=np.int16(16), **options)

    assert again.path == first.path
    assert type(featcache.load_head(again.path).train.lr) is float


def test_training_takes_paths_devices_and_lists(pixels: Path, tmp_path: Path) -> None:
    result = featcache.train_head(
        pixels,
        hidden=[8],
        seeds=np.int64(2),
        max_epochs=np.int64(1),
        device=torch.device("cpu"),  # type: ignore[arg-type]
        runs_dir=tmp_path,
    )

    assert [run.seed for run in result.runs] == [0, 1]


@pytest.mark.parametrize(
    ("single", "sequences"),
    [
        ({"reg": "l1"}, {"reg": ("l1",)}),
        ({"lr": 1e-2}, {"lr": (1e-2,)}),
        ({"hidden": 8}, {"hidden": ((8,),)}),
        ({"reg": "l2", "weight_decay": 1}, {"reg": ["l2"], "weight_decay": [1.0]}),
        ({"reg": "dropout", "dropout": 0.5}, {"reg": iter(["dropout"]), "dropout": [[0.5]]}),
    ],
)
def test_one_value_alone_is_a_sweep_of_one(
    single: dict[str, Any], sequences: dict[str, Any], pixels: Path, tmp_path: Path
) -> None:
    alone, listed = (
        featcache.sweep(pixels, **options, max_epochs=1, runs_dir=tmp_path)
        for options in (single, sequences)
    )

    assert [setting.runs for setting in alone.settings] == [s.runs for s in listed.settings]
    assert listed.n_trained == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "0.1"}, "--lr is '0.1', but must be a number."),
        ({"lr": None, "max_epochs": 2.0}, "--max-epochs is 2.0, but must be a whole number."),
        ({"batch_size": True}, "--batch-size is True, but must be a whole number."),
        ({"batch_size": None}, "--batch-size is None, but must be a whole number."),
        ({"hidden": "50,20"}, "--hidden is '50,20', but must be a whole number."),
        ({"hidden": [8.5]}, "--hidden is 8.5, but must be a whole number."),
        ({"dropout": {"p": 0.5}, "reg": "dropout"}, "--dropout is 'p', but must be a number."),
        ({"lr": 10**400}, "--lr is 1000"),
        ({"seed": 10**5000}, "--seed is of 16610 bits, but must be below 2**63."),
        ({"seed": 2**63 - 1, "seeds": 2}, f"--seed is {2**63}, but must be below 2**63."),
        ({"seeds": "3"}, "--seeds is '3', but must be a whole number."),
        ({"reg": ["l1"]}, "--reg is ['l1'], but must be text."),
        ({"recipe": 3}, "--recipe is 3, but must be text."),
        ({"select": 1}, "--select is 1, but must be text."),
        ({"resume": "no"}, "--resume is 'no', but must be True or False."),
        ({"device": 0}, "--device is 0, but must be text."),
        ({"device": "cuda:²"}, "--device 'cuda:²' is none of: auto, cpu, cuda, cuda:N."),
        (
            {"device": "cpu:2"},
            "--device 'cpu:2' is none of: auto, cpu, cuda, cuda:N. extract and sweep take several: "
            "--devices cpu:2.",
        ),
        ({"max_memory": "8GB"}, "--max-memory is '8GB', but must be a whole number."),
        ({"max_memory": 0}, "--max-memory is 0, but must be at least 1."),
        ({"runs_dir": None}, "--runs-dir is None, but must be text."),
        ({"cache_dir": 3}, "--cache-dir is 3, but must be text."),
        ({"cache_dir": ""}, "--cache-dir is empty. Nothing was started."),
        ({"runs_dir": ""}, "--runs-dir is empty. Nothing was started."),
    ],
)
def test_what_means_nothing_is_refused_by_name_and_value(
    options: dict[str, Any], message: str, pixels: Path, tmp_path: Path
) -> None:
    options.setdefault("runs_dir", tmp_path / "runs")

    with pytest.raises(UsageError) as err:
        featcache.train_head(pixels, **options)

    assert str(err.value).startswith(message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"hidden": (50, 20)},
            r"--hidden is \(50, 20\), but must be a list of lists.*\[\(50, 20\)\]",
        ),
        (
            {"dropout": [0.5], "reg": "dropout"},
            r"--dropout is \[0.5\], but must be a list of lists",
        ),
        ({"lr": "fast"}, "--lr is 'fast', but must be a number"),
        ({"reg": ("none", 2)}, "--reg is 2, but must be text"),
        ({"seeds": 0}, "--seeds is 0, but must be at least 1"),
    ],
)
def test_a_grid_that_means_nothing_is_refused_by_name_and_value(
    options: dict[str, Any], message: str, pixels: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        featcache.sweep(pixels, **options, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: featcache.extract(3), "The dataset is int, but must be a name, a path"),  # type: ignore[arg-type]
        (lambda: featcache.extract("digits", data_dir=""), "--data-dir is empty. Nothing was"),
        (
            lambda: featcache.extract("digits", image_size=8.5),  # type: ignore[arg-type]
            "--image-size is 8.5, but must be a whole number",
        ),
        (
            lambda: featcache.extract("digits", cache_dir=None),  # type: ignore[arg-type]
            "--cache-dir is None, but must be text",
        ),
        (
            lambda: featcache.parity(dataset="digits", seeds=1.5),  # type: ignore[arg-type]
            "--seeds is 1.5, but must be a whole number",
        ),
        (
            lambda: featcache.reproduce("digits", only=[1]),  # type: ignore[list-item]
            "--only is 1, but must be text",
        ),
        (
            lambda: featcache.reproduce("digits", backbone_for=["vgg16"]),  # type: ignore[arg-type]
            "--backbone-for is ['vgg16'], but must be names with a value for each",
        ),
        (
            lambda: featcache.parity(dataset="digits", epochs=0),
            "--epochs is 0, but must be at least 1",
        ),
        (
            lambda: featcache.evaluate("x", seed=-1),
            "--seed is -1, but must be at least 0",
        ),
        (
            lambda: featcache.evaluate(3),  # type: ignore[arg-type]
            "3 is no path",
        ),
        (
            lambda: featcache.evaluate("x", draws=2.5),  # type: ignore[arg-type]
            "--draws is 2.5, but must be a whole number",
        ),
        (
            lambda: featcache.evaluate("x", draws=10**9),
            "--draws is 1000000000, but must be at most 100000",
        ),
        (
            lambda: featcache.train_head(3),  # type: ignore[arg-type]
            "--cache is 3, but must be text",
        ),
        (
            lambda: featcache.HeadModule(n_features=4, n_classes=0),
            "n_classes is 0, but must be at least 1",
        ),
        (
            lambda: featcache.HeadModule(n_features=4, n_classes=2, lr="1"),  # type: ignore[arg-type]
            "--lr is '1', but must be a number",
        ),
    ],
)
def test_every_verb_refuses_by_name_and_value(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as err:
        call()

    assert str(err.value).startswith(message)


def test_batches_take_what_means_the_same(pixels: Path) -> None:
    batches = featcache.FeatureDataModule(
        pixels, batch_size=np.int64(5), val_fraction=np.float32(0.5)
    )

    batches.setup()

    assert [len(labels) for _, labels in batches.train_dataloader()] == [5, 5, 5]
    with pytest.raises(UsageError, match=r"--batch-size is 0\.5, but must be a whole number"):
        featcache.FeatureDataModule(pixels, batch_size=0.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="steps_per_batch is 0, but must be at least 1"):
        featcache.FeatureDataModule(pixels, steps_per_batch=0)


def test_a_folder_of_images_may_be_a_path(image_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "backbone": "pixels",
        "image_size": 8,
        "limit": 20,
        "n_workers": 0,
        "cache_dir": tmp_path / "cache",
    }

    by_path = featcache.extract(image_folder, **options)
    by_name = featcache.extract(f"folder:{image_folder}", **options)

    assert by_path.path == by_name.path
    result = featcache.train_head(
        dataset=image_folder,
        backbone="pixels",
        max_epochs=1,
        cache_dir=tmp_path / "cache",
        runs_dir=tmp_path / "runs",
    )
    assert result.cache == by_path.path
