"""A cache of images without labels: what needs labels refuses, what needs none works."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache.errors import UsageError
from tests.store.conftest import Recipe, random_rows

GOLDEN_RUN = Path(__file__).parents[1] / "golden" / "pixels-none-a35450fe"
REASON = r"toy-00000000\.h5 has no labels: it was made from images without classes"


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    rows = replace(random_rows(10, 5), labels=None)
    path = tmp_path / "cache" / "toys" / "toy-00000000.h5"
    return Recipe(path, {"all": rows}, class_names=()).build()


def train_head(cache: Path, runs_dir: Path) -> object:
    return featcache.train_head(cache, runs_dir=runs_dir)


def sweep(cache: Path, runs_dir: Path) -> object:
    return featcache.sweep(cache, runs_dir=runs_dir)


def data_module(cache: Path, runs_dir: Path) -> object:
    return featcache.FeatureDataModule(cache)


@pytest.mark.parametrize("call", [train_head, sweep, data_module])
def test_training_refuses_with_the_reason(
    unlabelled: Path, tmp_path: Path, call: Callable[[Path, Path], object]
) -> None:
    with pytest.raises(UsageError, match=REASON):
        call(unlabelled, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_no_head_is_evaluated_on_it(unlabelled: Path, tmp_path: Path) -> None:
    run = shutil.copytree(GOLDEN_RUN, tmp_path / "runs" / "digits" / GOLDEN_RUN.name)

    with pytest.raises(UsageError, match=REASON):
        featcache.evaluate(run, cache=unlabelled)


def test_its_features_ids_and_description_are_there(unlabelled: Path) -> None:
    rows = featcache.open_cache(unlabelled)["all"]
    described: Any = featcache.describe_cache(unlabelled)

    assert rows.labels is None
    assert rows.features.shape == (10, 5)
    assert np.isfinite(rows.features).all()
    assert len(rows.ids) == 10
    assert (described.state, described.class_names) == ("complete", ())
    assert featcache.verify_cache(unlabelled).is_sound
