"""A cache that is removed, replaced or cut short while a head is trained on it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import featcache
from featcache.errors import CorruptError
from featcache.features.batches import OrderedBatches
from featcache.features.rows import load_rows
from featcache.training.train_result import TrainResult
from tests.feature_caches import MakeCache, learnable_rows

Train = Callable[..., TrainResult]


def in_epoch(epoch: int, act: Callable[[], object]) -> Callable[[featcache.TrainProgress], None]:
    """Act once, after the first batch of an epoch."""
    done: list[int] = []

    def on_progress(progress: featcache.TrainProgress) -> None:
        if progress.epoch == epoch and not done:
            done.append(epoch)
            act()

    return on_progress


@pytest.mark.parametrize("max_memory", [None, 4096], ids=["in memory", "in windows"])
def test_a_cache_removed_during_training_is_trained_and_tested_on_to_the_end(
    train: Train, cache: featcache.Cache, tmp_path: Path, max_memory: int | None
) -> None:
    options = {"max_memory": max_memory, "batch_size": 4}
    whole = train(**options, runs_dir=tmp_path / "whole")

    result = train(**options, on_progress=in_epoch(1, lambda: featcache.remove_cache(cache.path)))

    assert not cache.path.exists()
    assert result.runs[0].test_acc == whole.runs[0].test_acc
    assert result.runs[0].history == whole.runs[0].history


def test_a_cache_put_in_the_place_of_another_is_not_tested_on(
    train: Train, cache: featcache.Cache, make_cache: MakeCache, tmp_path: Path
) -> None:
    whole = train(runs_dir=tmp_path / "whole")
    splits = {"train": learnable_rows(200, seed=8), "test": learnable_rows(60, seed=9)}
    other = make_cache("cache/other/toy-11111111.h5", splits=splits)

    result = train(on_progress=in_epoch(1, lambda: other.replace(cache.path)))

    assert result.runs[0].test_loss == whole.runs[0].test_loss


def test_a_cache_cut_short_under_windows_is_an_error_and_no_sigbus(
    train: Train, cache: featcache.Cache
) -> None:
    def cut() -> None:
        os.truncate(cache.path, 4096)

    with pytest.raises(CorruptError, match=r"toy-0.*h5 became shorter while it was read: the file"):
        train(max_memory=4096, batch_size=4, on_progress=in_epoch(0, cut))


def test_rows_that_stay_in_the_file_are_read_and_not_mapped(cache: featcache.Cache) -> None:
    rows = torch.tensor([7, 8, 9, 3, 150, 4])
    rows_in = {
        residence: load_rows(cache, "train", device=torch.device("cpu"), residence=residence)
        for residence in ("memory", "file")
    }

    [in_memory, in_file] = [found.take(rows) for found in rows_in.values()]
    os.truncate(cache.path, cache.path.stat().st_size // 2)

    assert torch.equal(in_memory[0], in_file[0])
    assert torch.equal(in_memory[1], in_file[1])
    with pytest.raises(CorruptError, match="became shorter while it was read"):
        list(OrderedBatches(rows_in["file"], torch.arange(200)))


def test_a_cache_can_be_handed_to_another_process(cache: featcache.Cache) -> None:
    copied = pickle.loads(pickle.dumps(cache))

    assert copied["test"].read(3, 5).tobytes() == cache["test"].features[3:5].tobytes()


def test_a_cache_that_is_let_go_leaves_no_file_open(cache: featcache.Cache) -> None:
    def n_open() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as the soak counts them

    before = n_open()
    for _ in range(5):
        featcache.open_cache(cache.path)["train"].read(0, 1)

    assert n_open() == before
