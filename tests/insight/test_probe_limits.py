"""Caches that cannot be probed, and options that make no sense: each with its message."""

from __future__ import annotations

import pytest

import featcache
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    FeatcacheError,
    MismatchError,
    UsageError,
)
from tests.feature_caches import IDENTITY, MakeCache, Rows, learnable_rows
from tests.insight.unequal_rows import rows_of


def without_labels(make_cache: MakeCache, cache: featcache.Cache) -> list[object]:
    rows = learnable_rows(30, seed=1)
    splits = {"all": Rows(rows.features, None, rows.ids, {})}
    return [make_cache("unlabelled.h5", splits=splits, class_names=())]


def of_one_class(make_cache: MakeCache, cache: featcache.Cache) -> list[object]:
    return [make_cache("one.h5", splits={"train": rows_of(30, 0, 0, seed=1)})]


def of_two_images(make_cache: MakeCache, cache: featcache.Cache) -> list[object]:
    return [make_cache("two.h5", splits={"train": rows_of(1, 1, 0, seed=1)})]


def of_other_labels(make_cache: MakeCache, cache: featcache.Cache) -> list[object]:
    train = learnable_rows(200, seed=1)
    assert train.labels is not None
    train.labels[3] = (train.labels[3] + 1) % 3
    splits = {"train": train, "test": learnable_rows(60, seed=2)}
    return [cache, make_cache("relabelled.h5", splits=splits)]


def of_another_size(make_cache: MakeCache, cache: featcache.Cache) -> list[object]:
    splits = {"train": learnable_rows(90, seed=1), "test": learnable_rows(60, seed=2)}
    return [cache, make_cache("shorter.h5", splits=splits)]


def of_another_dataset(make_cache: MakeCache, cache: featcache.Cache) -> list[object]:
    return [cache, make_cache("other.h5", identity={**IDENTITY, "dataset_sha256": "1" * 64})]


def damaged(make_cache: MakeCache, cache: featcache.Cache) -> list[object]:
    with cache.path.open("r+b") as file:
        file.seek(cache["test"].features.offset)  # type: ignore[attr-defined]
        file.write(b"\xff\xff\xff")
    return [cache.path]


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (without_labels, UsageError, "unlabelled.h5 has no labels: it was made from images"),
        (of_one_class, UsageError, r"All training images of one.h5 \(30\) are of one class"),
        (of_two_images, UsageError, "No validation images are left: split 'train' of two.h5"),
        (of_other_labels, MismatchError, "are not of the same images: the labels of split 'train"),
        (of_another_size, MismatchError, "split 'train' has 200 rows in the one and 90 in the ot"),
        (of_another_dataset, MismatchError, "their digests of the images differ"),
        (damaged, CorruptError, "is damaged: test rows 0 to 59"),
        (lambda *_: ["nosuch"], CacheMissingError, "There is no cache 'nosuch'"),
        (lambda *_: [], UsageError, "No cache was given"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_caches_that_cannot_be_probed_are_refused(
    make_cache: MakeCache,
    cache: featcache.Cache,
    made: object,
    error: type[FeatcacheError],
    message: str,
) -> None:
    caches = made(make_cache, cache)  # type: ignore[operator]

    with pytest.raises(error, match=message):
        featcache.probe(caches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": (0,)}, "--per-class is 0, but must be at least 1"),
        ({"per_class": ()}, "--per-class has no value"),
        ({"tries": 0}, "--tries is 0"),
        ({"max_rows": 1}, "--max-rows is 1"),
        ({"draws": 0}, "--draws is 0"),
        ({"device": "gpu"}, "--device 'gpu'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    cache: featcache.Cache, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        featcache.probe(cache, **options)  # type: ignore[arg-type]
