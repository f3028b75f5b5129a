"""The mean of a head's answers for all views of each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import UsageError
from featcache.evaluation.plots import plot_evaluation
from featcache.heads.head_file import load_head
from tests.feature_caches import MakeCache, viewed_splits

QUICK: dict[str, Any] = {"max_epochs": 2, "hidden": (8,), "batch_size": 16, "lr": 1e-2}


@pytest.fixture
def viewed(make_cache: MakeCache) -> featcache.Cache:
    return featcache.open_cache(make_cache(**viewed_splits(3, of="all")))


def test_probabilities_of_all_views_are_averaged(viewed: featcache.Cache, tmp_path: Path) -> None:
    run = featcache.train_head(viewed, **QUICK, runs_dir=tmp_path / "runs").path
    head = load_head(run).module()
    rows = viewed["test"]
    with torch.inference_mode():
        logits = head(torch.from_numpy(np.array(rows.views)).flatten(0, 1))
    wanted = logits.double().softmax(1).view(60, 3, 3).mean(1)
    labels = torch.from_numpy(np.array(rows.labels))

    plain, tta = featcache.evaluate(run), featcache.evaluate(run, tta=True)

    assert (plain.n_views, tta.n_views) == (1, 3)
    assert tta.acc.value == pytest.approx(float((wanted.argmax(1) == labels).double().mean()))
    assert tta.loss is not None
    assert plain.loss is not None
    wanted_loss = float(-wanted[torch.arange(60), labels].log().mean())
    assert tta.loss.value == pytest.approx(wanted_loss, rel=1e-5)
    assert tta.loss.value != pytest.approx(plain.loss.value, rel=1e-3)
    assert tta.predictions.name == "predictions-test-tta.csv"
    assert (run / "eval-test-tta.json").exists()
    first = tta.predictions.read_text().splitlines()[1].split(",")
    np.testing.assert_allclose([float(p) for p in first[3:]], wanted[0], rtol=1e-5)
    assert (tta.train_acc, tta.n_train_images) == (None, None)


def test_pictures_of_all_views_take_no_others_place(
    viewed: featcache.Cache, tmp_path: Path
) -> None:
    run = featcache.train_head(viewed, **QUICK, runs_dir=tmp_path / "runs").path
    plain, tta = featcache.evaluate(run), featcache.evaluate(run, tta=True)

    names = [{file.name for file in plot_evaluation(one)} for one in (plain, tta)]

    assert "confusion-test.svg" in names[0]
    assert "confusion-test-tta.svg" in names[1]
    assert "the mean of 3 views" in (run / "confusion-test-tta.svg").read_text()
    assert "views of each, averaged" in tta._repr_html_()
    assert "views of each, averaged" not in plain._repr_html_()
    assert "3 views of each image (flip, crop)" in viewed._repr_html_()


def test_scores_without_probabilities_are_averaged_as_they_are(
    viewed: featcache.Cache, tmp_path: Path
) -> None:
    run = featcache.train_head(
        viewed, solver="ncm", val_fraction=0, runs_dir=tmp_path / "runs"
    ).path
    loaded = load_head(run)
    assert not loaded.is_calibrated
    rows = viewed["test"]
    with torch.inference_mode():
        scores = loaded.module()(torch.from_numpy(np.array(rows.views)).flatten(0, 1))
    wanted = scores.double().view(60, 3, 3).mean(1).argmax(1)

    tta = featcache.evaluate(run, tta=True)

    right = (wanted == torch.from_numpy(np.array(rows.labels))).double().mean()
    assert tta.acc.value == pytest.approx(float(right))
    assert tta.loss is None


def test_a_head_of_another_cache_of_the_same_images_may_be_given_these_views(
    viewed: featcache.Cache, make_cache: MakeCache, tmp_path: Path
) -> None:
    plain = make_cache("cache/folder-toys/toy-11111111.h5")
    run = featcache.train_head(plain, **QUICK, runs_dir=tmp_path / "runs").path

    own, other = featcache.evaluate(run), featcache.evaluate(run, cache=viewed.path)
    tta = featcache.evaluate(run, cache=viewed.path, tta=True)

    assert other.acc == own.acc
    assert tta.n_views == 3


def test_two_heads_are_compared_on_all_views(viewed: featcache.Cache, tmp_path: Path) -> None:
    runs = featcache.train_head(viewed, **QUICK, seeds=2, runs_dir=tmp_path / "runs").runs

    comparison = featcache.compare(runs[0].path, runs[1].path, tta=True)

    assert [one.n_views for one in comparison.evaluations] == [3, 3]


def test_a_split_of_one_view_is_refused_with_the_way_out(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    cache = make_cache(**viewed_splits(3))
    run = featcache.train_head(cache, **QUICK, runs_dir=tmp_path / "runs").path

    with pytest.raises(UsageError, match=r"has one of those in split 'test'.*--views-of all"):
        featcache.evaluate(run, tta=True)
    assert featcache.evaluate(run, split="val", tta=True).n_views == 3
