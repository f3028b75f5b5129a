"""Heads on several views of each image: seeded draws, shared by all heads that share batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache.errors import InterruptedRunError
from featcache.heads.head_file import load_head
from featcache.heads.run_files import read_run
from tests.feature_caches import MakeCache, viewed_splits

OPTIONS: dict[str, Any] = {"batch_size": 16, "max_epochs": 3, "hidden": (8,), "lr": 1e-2}


@pytest.fixture
def viewed(make_cache: MakeCache) -> featcache.Cache:
    return featcache.open_cache(make_cache(**viewed_splits(4)))


@pytest.fixture
def plain(make_cache: MakeCache) -> featcache.Cache:
    """The same rows without other views."""
    return featcache.open_cache(make_cache("cache/folder-toys/toy-11111111.h5"))


def weights(path: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_head(path).arrays.items()}


def test_a_head_of_views_is_trained_again_bit_for_bit_and_is_another_than_that_of_plain_rows(
    viewed: featcache.Cache, plain: featcache.Cache, tmp_path: Path
) -> None:
    first, again, of_plain = (
        featcache.train_head(cache, **OPTIONS, runs_dir=tmp_path / name)
        for cache, name in ((viewed, "a"), (viewed, "b"), (plain, "c"))
    )

    assert weights(first.path) == weights(again.path)
    assert weights(first.path) != weights(of_plain.path)
    assert first.runs[0].test_acc is not None
    assert first.runs[0].test_acc > 0.8


def test_a_head_that_was_stopped_goes_on_with_the_views_of_its_epoch(
    viewed: featcache.Cache, tmp_path: Path
) -> None:
    whole = featcache.train_head(viewed, **OPTIONS, runs_dir=tmp_path / "whole")

    def stop(progress: featcache.TrainProgress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        featcache.train_head(viewed, **OPTIONS, runs_dir=tmp_path / "cut", on_progress=stop)
    resumed = featcache.train_head(viewed, **OPTIONS, runs_dir=tmp_path / "cut")

    assert resumed.runs[0].outcome == "resumed"
    assert weights(resumed.path) == weights(whole.path)


@pytest.mark.parametrize("max_memory", [None, 16 * 16 * 4 * 48])
def test_heads_of_a_sweep_see_the_views_that_one_head_sees(
    viewed: featcache.Cache, tmp_path: Path, max_memory: int | None
) -> None:
    grid = {**OPTIONS, "hidden": ((8,),), "patience": 0, "max_memory": max_memory}

    [setting] = featcache.sweep(viewed, **grid, seeds=2, runs_dir=tmp_path / "sweep").settings

    for seed, path in enumerate(setting.runs):
        alone = featcache.train_head(
            viewed,
            **OPTIONS,
            patience=0,
            max_memory=max_memory,
            seed=seed,
            order_seed=0,
            runs_dir=tmp_path / "alone",
        )
        for name in ("train_loss", "val_loss"):
            np.testing.assert_allclose(
                [row[name] for row in read_run(path).history],
                [row[name] for row in alone.runs[0].history],
                rtol=1e-5,
            )


def test_solvers_and_probes_take_the_plain_view(
    viewed: featcache.Cache, plain: featcache.Cache, tmp_path: Path
) -> None:
    for solver in ("logreg", "knn"):
        ours, theirs = (
            featcache.train_head(cache, solver=solver, runs_dir=tmp_path / "runs").runs[0]
            for cache in (viewed, plain)
        )

        assert ours.path != theirs.path
        assert (ours.val_loss, ours.test_loss) == (theirs.val_loss, theirs.test_loss)

    probed = [featcache.probe(cache).caches[0].classifiers for cache in (viewed, plain)]
    assert [figures.acc for figures in probed[0]] == [figures.acc for figures in probed[1]]


def test_folds_draw_views_too(
    viewed: featcache.Cache, plain: featcache.Cache, tmp_path: Path
) -> None:
    found, again, of_plain = (
        featcache.train_head(cache, **OPTIONS, folds=3, runs_dir=tmp_path / name).folds
        for cache, name in ((viewed, "a"), (viewed, "b"), (plain, "c"))
    )

    assert found is not None
    assert again is not None
    assert of_plain is not None
    assert found.folds == again.folds
    losses = [[fold.loss for fold in one.folds] for one in (found, of_plain)]
    assert losses[0] != losses[1]
