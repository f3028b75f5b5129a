"""The nearest rows by cosine, beside brute force in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import featcache
from featcache.insight.nearest import RowSet, nearest_rows
from featcache.training.solvers.rows import RowsOfSplit, SolverRows
from tests.feature_caches import MakeCache
from tests.largest_tensor import LargestTensor
from tests.store.conftest import Rows

STEP = 2.0**-18
CPU = torch.device("cpu")


def cosines(queries: Tensor, rows: Tensor) -> Tensor:
    """By the definition."""
    lengths = queries.double().norm(dim=1)[:, None] * rows.double().norm(dim=1)
    return (queries.double() @ rows.double().T) / lengths.clamp(min=1e-12)


def in_portions(rows: RowSet, size: int) -> RowSet:
    """The same rows, read so many at a time."""
    parts: list[RowsOfSplit] = []
    splits: list[str] = []
    for split, part in zip(rows.splits, rows.rows.parts, strict=True):
        some = [replace(part, index=index) for index in part.index.split(size)]
        parts += some
        splits += [split] * len(some)
    return RowSet(SolverRows(tuple(parts), rows.rows.n_features), tuple(splits))


def valid_features(cache: featcache.Cache, split: str) -> Tensor:
    features, _ = cache[split].arrays()
    return torch.from_numpy(np.array(features))


@pytest.mark.parametrize("size", [1000, 7])
def test_the_nearest_rows_are_those_of_brute_force_whatever_the_portions_are(
    cache: featcache.Cache, size: int
) -> None:
    train, test = (in_portions(RowSet.of_cache(cache, s), size) for s in ("train", "test"))

    found = nearest_rows(test, train, 5)

    known, asked = valid_features(cache, "train"), valid_features(cache, "test")
    expected = cosines(asked, known).topk(5)
    assert found.positions.tolist() == expected.indices.tolist()
    torch.testing.assert_close(found.cosines.double(), expected.values, atol=STEP, rtol=0)


def test_rows_that_could_not_be_read_are_left_out(cache: featcache.Cache) -> None:
    rows = RowSet.of_cache(cache)

    assert len(rows) == 198 + 60
    assert [rows.place(i) for i in (0, 4, 5, 197, 198, 257)] == [
        ("train", 0),
        ("train", 4),
        ("train", 6),  # row 5 has no features
        ("train", 199),
        ("test", 0),
        ("test", 59),
    ]


def test_a_row_is_no_neighbour_of_itself(cache: featcache.Cache) -> None:
    rows = RowSet.of_cache(cache, "train")

    found = nearest_rows(rows, rows, 3, are_same=True)

    features = valid_features(cache, "train")
    expected = cosines(features, features).fill_diagonal_(-2).topk(3)
    assert found.positions.tolist() == expected.indices.tolist()


@pytest.mark.parametrize("size", [1000, 7, 3])
def test_equal_rows_stay_in_their_order_whatever_the_portions_are(
    make_cache: MakeCache, size: int
) -> None:
    rng = np.random.default_rng(0)
    features = np.tile(rng.standard_normal(1027).astype("<f4"), (60, 1))
    features *= rng.uniform(0.5, 2, (60, 1)).astype("<f4")  # equal but for their length
    rows = Rows(features, np.arange(60) % 3, [f"{i}" for i in range(60)], {})
    cache = featcache.open_cache(make_cache(splits={"train": rows, "test": rows}))
    known = in_portions(RowSet.of_cache(cache, "train"), size)

    found = nearest_rows(known, known, 4, are_same=True)

    others = [[j for j in range(60) if j != i][:4] for i in range(60)]
    assert found.positions.tolist() == others
    assert (found.cosines == 1).all()


def test_there_may_be_fewer_rows_than_are_asked_for(cache: featcache.Cache) -> None:
    none, one, two = (torch.tensor(index, dtype=torch.int64) for index in ([], [7], [7, 3]))
    few, single = (RowSet.of_rows(cache, {"train": none, "test": index}) for index in (two, one))

    assert nearest_rows(few, few, 5, are_same=True).positions.tolist() == [[1], [0]]
    assert nearest_rows(single, single, 5, are_same=True).positions.shape == (1, 0)


def test_a_row_of_zeros_is_like_nothing() -> None:
    known = RowSet.of_features(torch.tensor([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0]]))

    found = nearest_rows(RowSet.of_features(torch.tensor([[3.0, 0.0], [0.0, 0.0]])), known, 3)

    assert found.positions.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert found.cosines.tolist() == [[1, 0, -1], [0, 0, 0]]


def test_pixels_are_compared_as_they_are_stored(tmp_path: Any) -> None:
    path = featcache.extract("digits", backbone="pixels", limit=50, cache_dir=tmp_path).path
    cache = featcache.open_cache(path)

    found = nearest_rows(RowSet.of_cache(cache, "test"), RowSet.of_cache(cache, "train"), 1)

    known, asked = (
        torch.from_numpy(np.array(cache[split].features)).flatten(1).double() / 127.5 - 1
        for split in ("train", "test")
    )
    assert found.positions[:, 0].tolist() == cosines(asked, known).argmax(1).tolist()


def test_a_search_of_many_rows_among_many_takes_bounded_memory() -> None:
    rows = RowSet.of_features(torch.randn(4200, 2))

    with LargestTensor() as largest:
        found = nearest_rows(rows, rows, 1, are_same=True)

    assert 1 << 20 < largest.n_values <= 16 << 20
    assert found.positions.shape == (4200, 1)


def test_what_is_done_is_told(cache: featcache.Cache) -> None:
    told: list[tuple[int, int]] = []
    rows = in_portions(RowSet.of_cache(cache, "test"), 25)

    nearest_rows(rows, rows, 1, on_progress=lambda *done: told.append(done))

    assert told == [(25, 60), (50, 60), (60, 60)]
