from __future__ import annotations

import csv
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import featcache
import featcache.training.run
from featcache.errors import LockedError, UsageError
from featcache.heads.head_file import load_head, save_head
from featcache.heads.trained_head import versions
from featcache.store import locked
from featcache.training.train_result import TrainResult
from tests.memory_limits import leave_memory
from tests.training.heads import Train, head_bytes


def test_a_run_is_a_folder_of_four_files(train: Train, tmp_path: Path) -> None:
    result = train()

    assert result.path.parent == tmp_path / "runs" / "folder-toys"
    assert result.path.name.startswith("toy-none-")
    assert sorted(p.name for p in result.path.iterdir()) == [
        "head.json",
        "head.safetensors",
        "metrics.csv",
        "result.json",
    ]
    assert [p.name for p in result.path.parent.iterdir()] == [result.path.name]


def test_it_learns(train: Train) -> None:
    [run] = train(max_epochs=20).runs

    assert run.test_acc is not None
    assert run.test_acc > 0.8
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]


def test_the_curves_stand_in_the_csv_one_row_an_epoch(train: Train) -> None:
    [run] = train().runs

    rows = list(csv.DictReader((run.path / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40]
    for name in ("train_loss", "val_loss", "val_acc"):
        assert [float(row[name]) for row in rows] == [epoch[name] for epoch in run.history]


def test_the_same_command_gives_the_same_bits(train: Train, tmp_path: Path) -> None:
    first = train(reg="dropout", dropout=(0.4,))
    torch.manual_seed(999)

    second = train(reg="dropout", dropout=(0.4,), runs_dir=tmp_path / "again")

    assert head_bytes(first) == head_bytes(second)
    assert first.runs[0].history == second.runs[0].history


def test_the_same_command_reuses_the_run(train: Train) -> None:
    first = train()

    [again] = train().runs

    assert (first.runs[0].outcome, again.outcome) == ("trained", "reused")
    assert again.history == first.runs[0].history


def test_training_leaves_the_global_random_state_alone(train: Train) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()

    train(reg="dropout", dropout=(0.4,))

    assert torch.equal(torch.random.get_rng_state(), before)


def test_seeds_differ_in_all_but_the_split(train: Train) -> None:
    result = train(seeds=3, seed=7)

    assert [run.seed for run in result.runs] == [7, 8, 9]
    assert len({head_bytes(TrainResult((run,), result.cache, {})) for run in result.runs}) == 3
    validated = {
        tuple(row[0] for row in csv.reader(evaluation.predictions.read_text().splitlines()))
        for evaluation in (featcache.evaluate(run.path, split="val") for run in result.runs)
    }
    assert len(validated) == 1
    assert train(seed=8).runs[0].outcome == "reused"


def test_the_best_epoch_can_be_kept(train: Train) -> None:
    options = {"lr": 0.3, "max_epochs": 12, "patience": 0}
    [last] = train(**options, select="last").runs
    [best] = train(**options, select="best").runs

    assert last.best_epoch == best.best_epoch < 12
    assert best.val_loss == min(row["val_loss"] for row in best.history) < last.val_loss
    assert load_head(best.path).n_epochs == best.best_epoch
    assert featcache.evaluate(best.path, split="val").loss.value == pytest.approx(best.val_loss)
    assert featcache.evaluate(last.path, split="val").loss.value == pytest.approx(last.val_loss)


def test_it_stops_early_as_asked(train: Train) -> None:
    [run] = train(max_epochs=50, patience=1, min_delta=0.5).runs

    assert run.stopped_early
    assert run.n_epochs == 2


def test_features_in_the_file_train_the_same_head(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = train()
    leave_memory(monkeypatch, tmp_path / "root", 10_000_000)

    streamed = train(runs_dir=tmp_path / "streamed")

    assert streamed.choices["features"].startswith("file (the features need 12.5 kB, but ")
    assert head_bytes(streamed) == head_bytes(resident)


def test_lightning_does_not_take_a_job_of_slurm_for_its_own(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NTASKS": "4", "PROCID": "2", "LOCALID": "2", "JOB_NAME": "heads"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    before, seen = signal.getsignal(signal.SIGUSR1), []

    train(on_progress=lambda _: seen.append(signal.getsignal(signal.SIGUSR1)))

    assert seen
    assert set(seen) == {before}


def test_no_seeds_is_an_error(train: Train) -> None:
    with pytest.raises(UsageError, match="--seeds is 0"):
        train(seeds=0)


def test_no_bit_of_a_head_depends_on_the_precision_that_the_user_has_set(
    train: Train, tmp_path: Path
) -> None:
    first = train()
    inside = set()

    torch.set_float32_matmul_precision("medium")
    try:
        second = train(
            runs_dir=tmp_path / "again",
            on_progress=lambda _: inside.add(torch.get_float32_matmul_precision()),
        )
        users_own = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision("highest")

    assert (inside, users_own) == ({"highest"}, "medium")
    assert head_bytes(first) == head_bytes(second)
    assert first.runs[0].test_loss == second.runs[0].test_loss
    assert load_head(first.path).versions["precision"] == "fp32"


def test_heads_trained_in_two_threads_have_the_bits_of_each_alone(
    train: Train, tmp_path: Path
) -> None:
    alone = [train(reg="dropout", dropout=(0.4,), seed=seed) for seed in (0, 1)]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()

    with ThreadPoolExecutor(2) as threads:
        together = list(
            threads.map(
                lambda seed: train(
                    reg="dropout", dropout=(0.4,), seed=seed, runs_dir=tmp_path / "again"
                ),
                (0, 1),
            )
        )

    assert [head_bytes(one) for one in together] == [head_bytes(one) for one in alone]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_seeds_no_other_devices(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded.append)

    train(reg="dropout", dropout=(0.4,))

    assert seeded == []


def test_a_callers_inference_mode_changes_nothing(train: Train, tmp_path: Path) -> None:
    plain = train()

    with torch.inference_mode():
        inside = train(runs_dir=tmp_path / "inside")
        assert torch.is_inference_mode_enabled()

    assert head_bytes(inside) == head_bytes(plain)
    assert inside.runs[0].history == plain.runs[0].history


def test_a_reused_run_tells_where_it_was_trained(train: Train) -> None:
    notes: list[str] = []
    train(seeds=2, on_note=notes.append)
    assert not any("reused, trained" in note for note in notes)

    train(seeds=3, on_note=notes.append)

    assert f"2 runs reused, trained on cpu with torch {torch.__version__}" in notes


def test_a_run_of_another_device_and_torch_is_told(train: Train) -> None:
    run = train().path
    elsewhere = {**versions("cuda:1"), "torch": "2.0.1"}
    save_head(run, replace(load_head(run), versions=elsewhere))
    notes: list[str] = []

    train(on_note=notes.append)

    assert "reused, trained on cuda with torch 2.0.1" in notes
    assert "device" not in versions("cpu")


def test_the_test_of_a_run_is_entered_under_its_lock(
    train: Train, cache: featcache.Cache, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"hidden": ((8,),), "batch_size": 16, "max_epochs": 4}
    rates = (1e-3, 1e-2, 3e-2)
    swept = featcache.sweep(cache, lr=rates, **options, runs_dir=tmp_path / "runs")
    untested = swept.settings[-1]
    before = (untested.runs[0] / "result.json").read_bytes()

    with locked(untested.runs[0]), pytest.raises(LockedError, match="is being written by process"):
        train(lr=untested.lr)
    assert (untested.runs[0] / "result.json").read_bytes() == before
    [run] = train(lr=untested.lr).runs

    assert run.test_acc is not None
    assert not list(run.path.parent.glob("*.lock"))
