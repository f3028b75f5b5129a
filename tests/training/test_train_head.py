from __future__ import annotations

import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import featcache
import featcache.training.run
from featcache.core.reporting import Choice
from featcache.core.side_files import partial_path
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    DeviceError,
    InterruptedRunError,
    LockedError,
    NonFiniteError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from featcache.heads.head_file import load_head, versions
from featcache.heads.runs import RUN_FILES
from featcache.store import CacheSplit, locked
from featcache.training.train_head import TrainResult
from tests.feature_caches import IDENTITY, MakeCache, learnable_rows

Train = Callable[..., TrainResult]


def head_bytes(result: TrainResult) -> bytes:
    return (result.path / "head.safetensors").read_bytes()


def stop_in(epoch: int) -> Callable[[featcache.TrainProgress], None]:
    """Press Ctrl-C after the first batch of an epoch, from 0."""

    def on_progress(progress: featcache.TrainProgress) -> None:
        if progress.epoch == epoch:
            raise KeyboardInterrupt

    return on_progress


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
    choice = Choice("file", "too large")
    monkeypatch.setattr("featcache.features.resident.pick_residence", lambda *_, **__: choice)

    streamed = train(runs_dir=tmp_path / "streamed")

    assert streamed.choices["features"] == "file (too large)"
    assert head_bytes(streamed) == head_bytes(resident)


@pytest.mark.parametrize("stopped_in", [1, 3])
def test_a_stopped_run_goes_on_to_the_same_bits(
    train: Train, tmp_path: Path, stopped_in: int
) -> None:
    options = {"reg": "dropout", "dropout": (0.4,)}
    whole = train(**options, runs_dir=tmp_path / "whole")
    with pytest.raises(InterruptedRunError) as err:
        train(**options, on_progress=stop_in(stopped_in))

    resumed = train(**options)

    folder = partial_path(resumed.path)
    assert str(err.value) == (
        f"Stopped. The head of epoch {stopped_in} of 4 is kept in {folder}. The same command goes "
        f"on from there."
    )
    assert resumed.runs[0].outcome == "resumed"
    assert head_bytes(resumed) == head_bytes(whole)
    assert resumed.runs[0].history == whole.runs[0].history
    assert (resumed.path / "metrics.csv").read_text() == (whole.path / "metrics.csv").read_text()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "n_epochs"),
    [({}, 4), ({"max_epochs": 9, "patience": 2, "min_delta": 10.0}, 3)],
    ids=["all epochs", "stopped early"],
)
def test_ctrl_c_in_the_final_test_is_a_stop_like_any_other(
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: dict[str, float],
    n_epochs: int,
) -> None:
    whole = train(**options, runs_dir=tmp_path / "whole")

    def press_ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(featcache.FeatureDataModule, "test_dataloader", press_ctrl_c)
        with pytest.raises(InterruptedRunError, match=f"The head of epoch {n_epochs} of . is kept"):
            train(**options)

    resumed = train(**options)

    assert head_bytes(resumed) == head_bytes(whole)
    assert resumed.runs[0].history == whole.runs[0].history
    assert (resumed.path / "metrics.csv").read_text() == (whole.path / "metrics.csv").read_text()
    assert resumed.runs[0].seconds > 0


def test_the_best_epoch_is_remembered_by_a_stopped_run_that_was_moved(
    train: Train, tmp_path: Path
) -> None:
    options = {"lr": 0.3, "max_epochs": 12, "patience": 0, "select": "best"}
    whole = train(**options, runs_dir=tmp_path / "whole")
    best_epoch = whole.runs[0].best_epoch
    with pytest.raises(InterruptedRunError):
        train(**options, runs_dir=tmp_path / "here", on_progress=stop_in(best_epoch + 1))
    (tmp_path / "here").rename(tmp_path / "there")

    resumed = train(**options, runs_dir=tmp_path / "there")

    assert resumed.runs[0].outcome == "resumed"
    assert head_bytes(resumed) == head_bytes(whole)


def test_what_eval_made_of_a_stopped_run_does_not_stay(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop_in(2))
    [folder] = (tmp_path / "runs" / "folder-toys").glob("*.partial")
    featcache.evaluate(folder)
    assert (folder / "eval-test.json").exists()

    resumed = train()

    assert sorted(p.name for p in resumed.path.iterdir()) == sorted(RUN_FILES)


def test_a_stopped_run_keeps_a_head_that_can_be_evaluated(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop_in(2))
    [folder] = (tmp_path / "runs" / "folder-toys").glob("*.partial")

    head = load_head(folder)

    assert (head.n_epochs, head.is_finished) == (2, False)
    assert featcache.evaluate(folder).n_images == 60


def test_early_stopping_counts_on_after_a_resume(train: Train, tmp_path: Path) -> None:
    options = {"max_epochs": 9, "patience": 3, "min_delta": 10.0}
    whole = train(**options, runs_dir=tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(**options, on_progress=stop_in(2))

    resumed = train(**options)

    assert resumed.runs[0].n_epochs == whole.runs[0].n_epochs == 4


def test_a_stopped_run_starts_again_if_asked_to(train: Train) -> None:
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop_in(2))

    [run] = train(resume=False).runs

    assert run.outcome == "trained"


def test_a_run_stopped_in_its_first_epoch_has_no_head(train: Train) -> None:
    with pytest.raises(InterruptedRunError, match="No epoch was finished, so there is no head yet"):
        train(on_progress=stop_in(0))


def test_a_damaged_checkpoint_is_told(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop_in(2))
    [checkpoint] = (tmp_path / "runs").rglob("last.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])

    with pytest.raises(CorruptError, match=r"last.ckpt is damaged .* Remove the folder"):
        train()


def test_a_loss_that_explodes_stops_and_keeps_the_last_good_head(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalty = featcache.training.module.l1_norm
    n_calls = 0

    def exploding(parameters: object) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return penalty(parameters) * (float("nan") if n_calls > 23 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr("featcache.training.module.l1_norm", exploding)

    with pytest.raises(NonFiniteError) as err:
        train(reg="l1")

    [folder] = (tmp_path / "runs" / "folder-toys").glob("*.partial")
    assert str(err.value) == (
        f"The loss became nan at step 4 of epoch 3. The head of epoch 2 of 4 is kept in {folder}. "
        f"Use a lower --lr (it is 0.01)."
    )
    assert load_head(folder).n_epochs == 2


def test_an_absurd_learning_rate_ends_in_that_message(train: Train) -> None:
    with pytest.raises(NonFiniteError, match=r"loss became (inf|nan).*Use a lower --lr \(it is 1e"):
        train(lr=1e30, max_epochs=30)


def test_a_damaged_cache_is_refused(train: Train, cache: featcache.Cache, tmp_path: Path) -> None:
    offset = cache["train"].features.offset  # type: ignore[attr-defined]
    with cache.path.open("r+b") as file:
        file.seek(offset + 1000)
        file.write(b"\xff\xff\xff")

    with pytest.raises(CorruptError, match=r"is damaged: train rows 0 to 63.*cache verify"):
        train()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_without_a_class_are_refused_before_a_run_begins(
    make_cache: MakeCache, tmp_path: Path, split: str
) -> None:
    splits = {"train": learnable_rows(40, seed=1), "test": learnable_rows(9, seed=2)}
    splits[split].labels[4] = 3

    with pytest.raises(CorruptError, match=f"1 labels of split '{split}' are not within"):
        featcache.train_head(make_cache(splits=splits), runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_one_writer_per_run(train: Train) -> None:
    path = train().path
    path.rename(path.with_name("elsewhere"))

    with locked(path), pytest.raises(LockedError, match="is being written by process"):
        train()


def test_a_folder_that_cannot_be_written_is_told(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="Cannot write"):
        train(runs_dir=tmp_path / "file" / "runs")


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


def fail_in(epoch: int, err: BaseException) -> Callable[[featcache.TrainProgress], None]:
    """Let the device fail after the first batch of an epoch, from 0."""

    def on_progress(progress: featcache.TrainProgress) -> None:
        if progress.epoch == epoch:
            raise err

    return on_progress


def test_a_device_that_fails_leaves_the_last_epoch_and_the_run_goes_on_from_there(
    train: Train, tmp_path: Path
) -> None:
    whole = train(runs_dir=tmp_path / "whole")
    err = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")

    with pytest.raises(
        DeviceError,
        match=r"Training failed on cpu: CUDA error: an illegal memory access was encountered\. "
        r"The head of epoch 2 of 4 is kept in .*partial\. Run the same command again",
    ):
        train(on_progress=fail_in(2, err))
    resumed = train()

    assert resumed.runs[0].outcome == "resumed"
    assert head_bytes(resumed) == head_bytes(whole)


def test_what_is_kept_is_told_as_it_is_where_memory_runs_out_before_an_epoch(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_room(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("featcache.training.run.require_room", without_room)
        with pytest.raises(DeviceError, match=r"no memory is left\. Nothing was started\. Run"):
            train()
    with pytest.raises(InterruptedRunError):
        train(on_progress=fail_in(2, KeyboardInterrupt()))
    monkeypatch.setattr("featcache.training.run.require_room", without_room)
    with pytest.raises(DeviceError, match=r"The last epoch that was saved is kept in .*\.partial"):
        train()


def test_an_error_that_is_no_devices_stays_what_it_is(train: Train) -> None:
    with pytest.raises(RuntimeError, match=r"^the user's own$"):
        train(on_progress=fail_in(0, RuntimeError("the user's own")))


def test_features_that_no_longer_fit_on_the_gpu_stay_in_memory_and_it_is_told(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(runs_dir=tmp_path / "plain")
    room_for = featcache.features.rows.room_for

    def without_room(rows: CacheSplit, *, device: torch.device, residence: str) -> torch.Tensor:
        if residence == "gpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return room_for(rows, device=device, residence=residence)

    monkeypatch.setattr("featcache.features.resident.room_for", without_room)
    choices = iter([Choice("gpu", "it fits"), Choice("memory", "it fits")])
    monkeypatch.setattr(
        "featcache.features.resident.pick_residence", lambda *_, **__: next(choices)
    )
    notes: list[str] = []
    result = train(on_note=notes.append)

    why = "gpu has no room for them any more: another process took it meanwhile"
    assert result.choices["features"] == f"memory ({why})"
    assert f"features stay in memory: {why}" in notes
    assert head_bytes(result) == head_bytes(plain)


def test_features_that_no_longer_fit_into_memory_are_read_from_the_file(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_room(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr("featcache.features.resident.room_for", without_room)

    assert train().choices["features"].startswith("file (memory has no room for them any more")


def test_a_device_that_fails_while_a_head_is_evaluated_is_a_device_error(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train().path

    def fail(*_: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr("torch.nn.Linear.forward", fail)

    with pytest.raises(DeviceError, match="Evaluation failed on cpu: CUDA error: unspecified"):
        featcache.evaluate(run)


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


def test_a_run_of_another_device_and_torch_is_told(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(_: str) -> dict[str, str]:
        return {**versions("cuda:1"), "torch": "2.0.1"}

    with monkeypatch.context() as patched:
        patched.setattr("featcache.heads.run_files.versions", elsewhere)
        train()
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
