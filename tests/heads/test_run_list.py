"""Runs are listed with what they are, whatever state they are in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import featcache
from featcache.errors import InterruptedRunError
from featcache.training.train_result import TrainResult

Train = Callable[..., TrainResult]


def test_a_run_tells_its_settings_and_figures(train: Train, tmp_path: Path) -> None:
    [run] = train(reg="l1l2", patience=0, select="last", seed=3).runs
    os.utime(run.path / "head.safetensors", (1_000_000_000, 1_000_000_000))

    [found] = featcache.describe_runs(tmp_path / "runs")

    assert (found.path, found.state) == (run.path, "finished")
    assert found.trained == "2001-09-09T01:46:40+00:00"
    assert found.age_s > 0
    assert (found.dataset, found.backbone) == ("folder:toys", "toy")
    assert found.settings == {
        "reg": "l1l2",
        "l1": 1e-5,
        "weight_decay": 1e-4,
        "dropout": [],
        "hidden": [8],
        "lr": 1e-2,
        "batch_size": 16,
        "max_epochs": 4,
        "patience": 0,
        "select": "last",
        "seed": 3,
        "class_weight": "none",
        "label_smoothing": 0.0,
    }
    assert (found.n_epochs, found.kept_epoch) == (run.n_epochs, run.kept_epoch) == (4, 4)
    names = ("val_loss", "val_acc", "test_loss", "test_acc", "seconds")
    assert found.figures == {name: getattr(run, name) for name in names}


def test_epochs_that_were_trained_and_the_one_that_is_kept_have_a_name_each(
    train: Train, tmp_path: Path
) -> None:
    [run] = train(lr=1.0, select="best").runs

    [found] = featcache.describe_runs(tmp_path / "runs")
    written = json.loads((run.path / "result.json").read_text())

    assert run.best_epoch < 4
    for said in (vars(run), vars(found), written):
        assert (said["n_epochs"], said["kept_epoch"]) == (4, run.best_epoch)


def test_the_newest_comes_last(train: Train, tmp_path: Path) -> None:
    paths = [train(seed=seed).path for seed in (1, 2)]
    os.utime(paths[1] / "head.safetensors", (1, 1))

    assert [run.path for run in featcache.describe_runs(tmp_path / "runs")] == paths[::-1]


def test_a_stopped_run_has_no_figures_yet(train: Train, tmp_path: Path) -> None:
    def press_ctrl_c(progress: featcache.TrainProgress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        train(on_progress=press_ctrl_c)

    [found] = featcache.describe_runs(tmp_path / "runs")
    assert (found.state, found.n_epochs, found.kept_epoch) == ("stopped", 2, 2)
    assert set(found.figures.values()) == {None}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("head.safetensors", b"torn"),
        ("result.json", b"{"),
        ("result.json", b'{"val_loss": "low"}'),
        ("result.json", b"[]"),
    ],
)
def test_a_damaged_run_is_listed_with_what_is_wrong(
    train: Train, tmp_path: Path, file: str, content: bytes
) -> None:
    path = train().path
    (path / file).write_bytes(content)

    [found] = featcache.describe_runs(tmp_path / "runs")

    assert (found.path, found.state, found.figures) == (path, "damaged", {})
    assert found.problem.startswith(f"{path}: ")


def test_a_folder_that_is_not_there_holds_no_runs(tmp_path: Path) -> None:
    assert featcache.describe_runs(tmp_path / "nowhere") == []
