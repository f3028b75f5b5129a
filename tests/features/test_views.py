"""A view of each row for every epoch: the same whatever the order and wherever features stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.features import rows as rows_module
from featcache.features.datamodule import FeatureDataModule
from featcache.features.order import EpochOrder
from featcache.features.residence import fitting_window, is_too_large
from featcache.features.resident import load_sound
from featcache.features.rows import load_rows
from tests.feature_caches import MakeCache, viewed_splits

CPU = torch.device("cpu")
N_VIEWS = 3


@pytest.fixture
def viewed(make_cache: MakeCache) -> featcache.Cache:
    """200 rows of 3 views to train, 60 of one to test."""
    return featcache.open_cache(make_cache(**viewed_splits(N_VIEWS)))


def drawn(batches: FeatureDataModule, cache: featcache.Cache, epoch: int) -> dict[int, int]:
    """The view of each row that trains in an epoch, by its number, found by its features."""
    batches.sampler.set_epoch(epoch)
    flat = torch.from_numpy(np.array(cache["train"].views)).flatten(0, 1)
    found = {}
    for features, labels in batches.train_dataloader():
        for row, label in zip(features, labels, strict=True):
            [place] = (flat == row).all(1).nonzero().flatten().tolist()
            found[place // N_VIEWS] = place % N_VIEWS
            assert label == cache["train"].labels[place // N_VIEWS]
    return found


def batches_of(cache: featcache.Cache, **options: object) -> FeatureDataModule:
    batches = FeatureDataModule(cache, batch_size=16, **options)  # type: ignore[arg-type]
    batches.setup("fit")
    return batches


def test_every_row_has_one_view_an_epoch_and_another_in_other_epochs(
    viewed: featcache.Cache,
) -> None:
    batches = batches_of(viewed, seed=7)

    epochs = [drawn(batches, viewed, epoch) for epoch in range(3)]

    for found in epochs:
        assert sorted(found) == batches.train_rows.sort().values.tolist()
        counts = np.bincount([*found.values()], minlength=N_VIEWS)
        assert counts.min() > len(found) / N_VIEWS / 2
    same = np.mean([epochs[0][row] == epochs[1][row] for row in epochs[0]])
    assert 0.2 < same < 0.5
    assert drawn(batches, viewed, 1) == epochs[1]
    assert drawn(batches_of(viewed, seed=8), viewed, 0) != epochs[0]


def test_windows_and_the_file_draw_the_same_views_as_memory(
    viewed: featcache.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = drawn(batches_of(viewed, seed=3), viewed, 2)
    in_windows = drawn(batches_of(viewed, seed=3, window_rows=48), viewed, 2)
    monkeypatch.setattr("featcache.core.memory.free_memory", lambda _: (0, "memory"))
    batches = batches_of(viewed, seed=3)
    in_file = drawn(batches, viewed, 2)

    assert batches.residence is not None
    assert batches.residence.value == "file"
    assert in_memory == in_windows == in_file


def test_validation_and_test_are_of_the_plain_view(viewed: featcache.Cache) -> None:
    batches = batches_of(viewed)
    batches.setup("test")

    for loader, split, index in (
        (batches.val_dataloader(), "train", batches.val_rows),
        (batches.test_dataloader(), "test", torch.arange(60)),
    ):
        features = torch.cat([features for features, _ in loader])
        assert torch.equal(features, torch.from_numpy(np.array(viewed[split].features))[index])


def test_one_view_is_drawn_as_if_there_were_no_others(cache: featcache.Cache) -> None:
    order = EpochOrder(torch.randperm(100), seed=3)

    assert torch.equal(order.places(1, 100), order.order())


def test_the_view_of_a_row_does_not_depend_on_the_other_rows() -> None:
    few, all_rows = torch.arange(40, 60), torch.arange(100)

    of_few, of_all = (EpochOrder(rows, seed=5).places(4, 100) for rows in (few, all_rows))

    assert set(of_few.tolist()) <= set(of_all.tolist())


@pytest.mark.parametrize("residence", ["memory", "file"])
def test_rows_of_a_cache_of_views_are_plain_unless_all_are_asked_for(
    viewed: featcache.Cache, residence: str
) -> None:
    index = torch.tensor([3, 4, 5, 199, 0])
    stored = np.array(viewed["train"].views)

    plain = load_rows(viewed, "train", device=CPU, residence=residence)
    whole = load_rows(viewed, "train", device=CPU, residence=residence, n_views=N_VIEWS)

    assert np.array_equal(plain.take(index)[0], stored[index, 0])
    for view in range(N_VIEWS):
        features, labels = whole.take(index, view=view)
        assert np.array_equal(features, stored[index, view])
        assert np.array_equal(labels, viewed["train"].labels[index])


@pytest.mark.parametrize("draws_views", [True, False])
def test_what_is_verified_and_loaded_in_one_reading_is_what_is_stored(
    viewed: featcache.Cache, draws_views: bool
) -> None:
    resident = load_sound(viewed, device="cpu", window_rows=None, draws_views=draws_views)

    rows = resident.rows["train"]
    stored = viewed["train"].views if draws_views else viewed["train"].features
    assert rows.n_views == (N_VIEWS if draws_views else 1)
    assert np.array_equal(rows.features, stored.reshape(-1, 12))
    assert resident.rows["test"].n_views == 1


def test_memory_is_counted_for_the_views_that_are_loaded(
    viewed: featcache.Cache, make_cache: MakeCache
) -> None:
    row_bytes = 12 * 4
    plain, whole = (200 + 60) * row_bytes, (200 * N_VIEWS + 60) * row_bytes
    train = featcache.config.TrainSpec(batch_size=4)

    assert not is_too_large(viewed, plain)
    assert is_too_large(viewed, plain - 1)
    assert fitting_window(viewed, train, whole) is None
    assert fitting_window(viewed, train, whole - 1) == (whole - 1) // (row_bytes * N_VIEWS)


def test_a_long_read_of_plain_rows_goes_in_parts(
    viewed: featcache.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_BYTES_PER_COPY", 12 * 4 * 16)

    rows = load_rows(viewed, "train", device=CPU, residence="memory")

    assert np.array_equal(rows.features, viewed["train"].features)


def test_a_cache_of_views_is_not_the_usual_one(make_cache: MakeCache, tmp_path: Path) -> None:
    plain = make_cache("cache/folder-toys/vgg16-00000000.h5")
    make_cache("cache/folder-toys/vgg16-00000001.h5", **viewed_splits(N_VIEWS))

    result = featcache.train_head(cache=plain, max_epochs=1, hidden=(), runs_dir=tmp_path / "runs")

    assert result.cache == plain
