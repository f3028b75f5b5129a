"""Features that do not fit: windows of the file, each read once, shuffled within."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.config import HeadSpec, TrainSpec
from featcache.core.identity import fingerprint
from featcache.errors import InterruptedRunError, UsageError
from featcache.features.datamodule import FeatureDataModule
from featcache.features.order import EpochOrder, windows_of
from featcache.features.residence import pick_residence
from featcache.features.windows import WindowedRows
from featcache.heads.runs import run_path
from featcache.training.train_result import TrainResult
from tests.feature_caches import MakeCache, learnable_rows

Train = Callable[..., TrainResult]
ROW_BYTES = 12 * 4


def test_windows_are_stretches_of_the_file_and_hold_every_row_once() -> None:
    rows = torch.randperm(1000)[:700]

    windows = windows_of(rows, 64)

    assert torch.equal(torch.cat(windows), rows.sort().values)
    assert all(len((window // 64).unique()) == 1 for window in windows)
    assert len(windows) == 16


def test_an_order_stays_within_one_window_after_another() -> None:
    order = EpochOrder(torch.arange(500), seed=3, window_rows=64)

    first = order.order()
    order.set_epoch(1)
    second = order.order()

    assert torch.equal(first.sort().values, torch.arange(500))
    changes = (first // 64).diff().ne(0).sum()
    assert changes == 7  # of 8 windows
    assert not torch.equal(first, first.sort().values)
    assert not torch.equal(first, second)
    assert (first // 64).unique_consecutive().tolist() != (
        second // 64
    ).unique_consecutive().tolist()


def test_each_window_is_read_once_an_epoch_and_gives_the_files_rows(
    cache: featcache.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = FeatureDataModule(cache, batch_size=7, window_rows=32)
    batches.setup("fit")
    loaded: list[int] = []
    read = WindowedRows._read

    def counted(self: WindowedRows, number: int) -> None:
        loaded.append(number)
        read(self, number)

    monkeypatch.setattr(WindowedRows, "_read", counted)
    list(batches.val_dataloader())
    assert len(loaded) == 7  # validation reads the file once too
    loaded.clear()
    order = batches.sampler.order()
    features = torch.cat([features for features, _ in batches.train_dataloader()])
    labels = torch.cat([labels for _, labels in batches.train_dataloader()])

    assert torch.equal(features, torch.from_numpy(np.array(cache["train"].features[order])))
    assert torch.equal(labels, torch.from_numpy(cache["train"].labels[order]))
    assert len(set(loaded)) == 7
    assert len(loaded) <= 2 * 7  # two epochs were drawn


def test_windows_stay_in_the_file_whatever_memory_there_is(cache: featcache.Cache) -> None:
    rows = torch.arange(200)
    orders = [EpochOrder(rows, seed=0, window_rows=n) for n in (None, 32)]

    all_rows, windows = (
        pick_residence(cache, device=torch.device("cpu"), order=order) for order in orders
    )

    assert all_rows.value == "memory"
    assert windows == ("file", "7 windows of 32 rows, shuffled within each, as asked for")


def test_only_windows_have_a_word_in_the_identity_of_a_run(cache: featcache.Cache) -> None:
    head = HeadSpec()

    names = [
        run_path(Path("runs"), cache, head, TrainSpec(patience=0, window_rows=n)).name
        for n in (None, 300)
    ]

    training = TrainSpec(patience=0).to_json()
    del training["order_seed"], training["window_rows"]
    identity = {"cache": cache.fingerprint, "head": asdict(head), "train": training}
    in_windows = {**identity, "train": {**training, "window_rows": 300}}
    assert names == [f"toy-none-{fingerprint(said)[:8]}" for said in (identity, in_windows)]


def test_a_head_learns_from_windows_as_from_memory(make_cache: MakeCache, tmp_path: Path) -> None:
    splits = {"train": learnable_rows(2000, seed=1), "test": learnable_rows(500, seed=2)}
    cache = make_cache(splits=splits)

    def accuracies(max_memory: int | None) -> list[float]:
        result = featcache.train_head(
            cache,
            lr=1e-2,
            batch_size=16,
            seeds=3,
            max_memory=max_memory,
            runs_dir=tmp_path / f"{max_memory}",
        )
        return [run.test_acc or 0.0 for run in result.runs]

    resident, windowed = accuracies(None), accuracies(ROW_BYTES * 300)

    assert np.mean(windowed) == pytest.approx(np.mean(resident), abs=0.02)


def test_what_fits_is_the_same_run_as_without_a_limit(train: Train) -> None:
    first = train()

    again = train(max_memory=1_000_000)

    assert again.path == first.path
    assert again.runs[0].outcome == "reused"


def test_a_windowed_run_that_was_stopped_goes_on_to_the_same_bits(
    train: Train, tmp_path: Path
) -> None:
    options = {"batch_size": 4, "max_memory": ROW_BYTES * 70}
    whole = train(**options, runs_dir=tmp_path / "whole")

    def stop(progress: featcache.TrainProgress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        train(**options, on_progress=stop)
    resumed = train(**options)

    files = [result.path / "head.safetensors" for result in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "3 windows of 70 rows, shuffled within each" in whole.choices["features"]


def test_a_sweep_reads_windows_too(cache: featcache.Cache, train: Train, tmp_path: Path) -> None:
    options = {"batch_size": 4, "max_memory": ROW_BYTES * 70, "max_epochs": 2}

    [setting] = featcache.sweep(cache, **options, runs_dir=tmp_path / "sweep").settings

    alone = train(**options, runs_dir=tmp_path / "alone", hidden=(50, 20), lr=1e-3)
    assert setting.val_loss is not None
    assert setting.val_loss.mean == pytest.approx(alone.runs[0].val_loss, rel=1e-5)


def test_too_little_memory_is_told_with_what_is_enough(train: Train) -> None:
    with pytest.raises(UsageError, match=r"room for 20 rows of 0.0 kB.* at least 13kB"):
        train(batch_size=16, max_memory=ROW_BYTES * 20)
