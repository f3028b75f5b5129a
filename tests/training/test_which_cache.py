from __future__ import annotations

from pathlib import Path

import pytest

import featcache
import featcache.training.run
from featcache.errors import CacheMissingError, UnknownNameError, UsageError
from tests.feature_caches import IDENTITY, MakeCache


def test_the_cache_is_found_by_dataset_and_backbone(make_cache: MakeCache, tmp_path: Path) -> None:
    path = make_cache("cache/digits/toy-00000000.h5")

    result = featcache.train_head(
        dataset="digits",
        backbone="toy",
        max_epochs=1,
        cache_dir=tmp_path / "cache",
        runs_dir=tmp_path / "runs",
    )

    assert result.cache == path


def test_a_cache_that_is_not_there_comes_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError) as err:
        featcache.train_head(cache_dir=tmp_path)

    assert str(err.value) == (
        f"There is no complete cache of vgg16 in {tmp_path / 'cifar10'}. Make it with: featcache "
        f"extract --dataset cifar10 --backbone vgg16 --cache-dir {tmp_path}"
    )


def test_of_several_caches_the_one_with_frozen_batch_norm_is_meant(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    make_cache("cache/digits/toy-1.h5", identity={**IDENTITY, "bn": {"mode": "adapted"}})
    usual = make_cache("cache/digits/toy-2.h5")

    result = featcache.train_head(
        dataset="digits",
        backbone="toy",
        max_epochs=1,
        cache_dir=tmp_path / "cache",
        runs_dir=tmp_path / "runs",
    )

    assert result.cache == usual


def test_a_mistyped_backbone_is_no_missing_cache(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="vgg16', 'vgg13'"):
        featcache.train_head(backbone="vgg61", cache_dir=tmp_path)


def test_several_caches_are_named_with_what_they_differ_in(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    make_cache("cache/digits/toy-1.h5")
    make_cache("cache/digits/toy-2.h5", identity={**IDENTITY, "precision": "bf16"})

    with pytest.raises(
        UsageError, match=r'toy-2.h5 \(260 rows; written .*; precision: found "bf16".* --cache'
    ):
        featcache.train_head(dataset="digits", backbone="toy", cache_dir=tmp_path / "cache")


def test_a_cache_and_a_dataset_contradict_each_other(cache: featcache.Cache) -> None:
    with pytest.raises(UsageError, match="--cache names the cache, so --dataset and --backbone"):
        featcache.train_head(cache, dataset="digits")
