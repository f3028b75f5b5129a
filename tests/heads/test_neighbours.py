"""The search for the nearest rows, beside brute force in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from featcache.heads.neighbours import References, nearest
from tests.largest_tensor import LargestTensor


def in_portions(rows: Tensor, labels: Tensor, size: int) -> References:
    def references() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(rows.split(size), labels.split(size), strict=True)

    return references


def drawn(n: int, n_features: int, *, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
    rng = np.random.default_rng(n)
    return torch.from_numpy(rng.normal(mean, deviation, (n, n_features)).astype(np.float32))


def test_rows_far_from_the_origin_have_the_neighbours_of_brute_force() -> None:
    rows, queries = (drawn(n, 64, mean=30.0, deviation=0.1) for n in (500, 50))

    _, found = nearest(queries, in_portions(rows, torch.arange(500), 130), 5)

    distances = torch.cdist(queries.double(), rows.double())
    assert found.tolist() == distances.topk(5, largest=False).indices.tolist()


def test_of_equal_rows_the_first_are_nearest_whatever_the_portions_are() -> None:
    rows, queries = torch.ones(100, 8), drawn(3, 8)

    for size in (100, 30, 7):
        _, found = nearest(queries, in_portions(rows, torch.arange(100), size), 5)

        assert found.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_an_equal_row_is_not_put_before_a_nearer_one() -> None:
    rows = torch.tensor([[2.0], [1.0], [1.0], [1.0], [0.0]])

    for size in (5, 2, 1):
        _, found = nearest(torch.zeros(1, 1), in_portions(rows, torch.arange(5), size), 3)

        assert found.tolist() == [[4, 1, 2]]


def test_a_search_among_many_rows_takes_bounded_memory() -> None:
    rows, queries = drawn(6000, 2), drawn(5000, 2)

    with LargestTensor() as largest:
        _, found = nearest(queries, in_portions(rows, torch.arange(6000), 6000), 1)

    assert 1 << 20 < largest.n_values <= 16 << 20
    assert (found[:, 0] == torch.cdist(queries, rows).argmin(1)).double().mean() > 0.999
