"""An evaluation on other images leaves out those that trained the head."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache.errors import UsageError
from tests.feature_caches import IDENTITY, MakeCache, learnable_rows
from tests.store.conftest import Rows

GROWN = {**IDENTITY, "dataset_sha256": "1" * 64}


def hashed(rows: Rows) -> Rows:
    """Let each image have a digest of its own."""
    digests = [list(hashlib.sha256(row.tobytes()).digest()) for row in rows.features]
    return replace(rows, image_sha256=np.array(digests, np.uint8))


def joined(first: Rows, second: Rows) -> Rows:
    """Join images to others, under new ids."""
    features = np.concatenate([second.features, first.features])
    assert first.labels is not None
    assert second.labels is not None
    labels = np.concatenate([second.labels, first.labels])
    return Rows(features, labels, [f"moved-{i}" for i in range(len(labels))])


@pytest.fixture
def rows() -> Rows:
    return learnable_rows(60, seed=1)


def trained(cache: Path, tmp_path: Path, **options: Any) -> Path:
    options = options or {"max_epochs": 1, "hidden": ()}
    return featcache.train_head(cache, runs_dir=tmp_path / "runs", **options).path


def test_images_that_trained_the_head_are_known_in_any_split_and_left_out(
    make_cache: MakeCache, rows: Rows, tmp_path: Path
) -> None:
    run = trained(make_cache(splits={"train": hashed(rows)}), tmp_path)
    mixed = hashed(joined(rows, learnable_rows(30, seed=5)))
    other = make_cache("other.h5", identity=GROWN, splits={"test": mixed})

    found = featcache.evaluate(run, cache=other)

    assert found.n_images == 30
    assert "60 images left out that trained the head or chose its settings" in found.remarks
    assert not any("may be among these" in remark for remark in found.remarks)


def test_a_split_of_training_images_alone_is_refused(
    make_cache: MakeCache, rows: Rows, tmp_path: Path
) -> None:
    run = trained(make_cache(splits={"train": hashed(rows)}), tmp_path)
    other = make_cache("other.h5", identity=GROWN, splits={"test": hashed(rows)})

    with pytest.raises(UsageError, match=r"and did not train the head\. Nothing was evaluated"):
        featcache.evaluate(run, cache=other)


def test_without_digests_the_ids_of_a_grown_dataset_tell_and_the_doubt_is_said(
    make_cache: MakeCache, rows: Rows, tmp_path: Path
) -> None:
    run = trained(make_cache(splits={"train": rows}), tmp_path)
    grown = learnable_rows(61, seed=1)
    other = make_cache("other.h5", identity=GROWN, splits={"train": grown})

    found = featcache.evaluate(run, cache=other, split="TRAIN")

    assert (found.split, found.n_images) == ("train", 1)
    assert (
        "images that trained the head may be among these: a cache does not hold the SHA-256 of "
        "its images"
    ) in found.remarks


def test_a_training_split_is_never_taken_unasked(
    make_cache: MakeCache, rows: Rows, tmp_path: Path
) -> None:
    run = trained(make_cache(splits={"train": rows}), tmp_path)
    other = make_cache("other.h5", identity=GROWN, splits={"train": learnable_rows(61, seed=1)})

    with pytest.raises(UsageError, match=r"no split 'test' or 'val', only train\. .*--split"):
        featcache.evaluate(run, cache=other)
    with pytest.raises(UsageError, match=r"--split is 'val', but other\.h5 has only train"):
        featcache.evaluate(run, cache=other, split="val")


def test_where_the_cache_of_the_training_is_gone_its_splits_are_refused_and_others_told(
    make_cache: MakeCache, rows: Rows, tmp_path: Path
) -> None:
    cache = make_cache(splits={"train": hashed(rows)})
    run = trained(cache, tmp_path)
    splits = {"train": hashed(rows), "test": hashed(learnable_rows(30, seed=5))}
    other = make_cache("other.h5", identity=GROWN, splits=splits)
    cache.unlink()

    with pytest.raises(UsageError, match=r"the cache of the training is gone.*--cache-dir"):
        featcache.evaluate(run, cache=other, split="train", cache_dir=tmp_path / "cache")
    found = featcache.evaluate(run, cache=other, cache_dir=tmp_path / "cache")

    assert found.n_images == 30
    assert (
        "images that trained the head may be among these: the cache of its training is gone"
    ) in found.remarks


def test_another_cache_in_the_place_of_the_heads_is_passed_over(
    make_cache: MakeCache, rows: Rows, tmp_path: Path
) -> None:
    cache = make_cache(splits={"train": hashed(rows), "test": learnable_rows(30, seed=5)})
    run = trained(cache, tmp_path, solver="knn", k=(3,))
    moved = tmp_path / "cache" / "folder-toys" / "moved.h5"
    cache.rename(moved)
    make_cache(identity=GROWN, splits={"test": learnable_rows(9, seed=6)})

    found = featcache.evaluate(run, cache_dir=tmp_path / "cache")

    assert (found.cache, found.n_images) == (moved, 30)
