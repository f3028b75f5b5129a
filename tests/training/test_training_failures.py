from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import featcache
import featcache.training.run
from featcache.core.reporting import Choice
from featcache.errors import (
    CorruptError,
    DeviceError,
    InterruptedRunError,
    LockedError,
    NonFiniteError,
    StorageError,
)
from featcache.features import resident
from featcache.heads.head_file import load_head
from featcache.store import CacheSplit, locked
from tests.feature_caches import MakeCache, learnable_rows
from tests.training.heads import Train, head_bytes


def test_a_loss_that_explodes_stops_and_keeps_the_last_good_head(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalty = featcache.training.module.l1_norm
    n_calls = 0

    def exploding(parameters: object) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return penalty(parameters) * (float("nan") if n_calls > 23 else 1)  # type: ignore[arg-type]

    # In the middle of an epoch: what explodes by itself does so at once, or at no known step.
    monkeypatch.setattr(featcache.training.module, "l1_norm", exploding)

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

    with pytest.raises(CorruptError, match=f"labels of split '{split}' .1 of them. are not within"):
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
        # Memory that really ends would take other tests with it.
        patched.setattr(featcache.training.run, "require_room", without_room)
        with pytest.raises(DeviceError, match=r"no memory is left\. Nothing was started\. Run"):
            train()
    with pytest.raises(InterruptedRunError):
        train(on_progress=fail_in(2, KeyboardInterrupt()))
    monkeypatch.setattr(featcache.training.run, "require_room", without_room)
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

    def without_room(
        rows: CacheSplit, *, device: torch.device, residence: str, n_views: int
    ) -> torch.Tensor:
        if residence == "gpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return room_for(rows, device=device, residence=residence, n_views=n_views)

    # There is no GPU to fill.
    monkeypatch.setattr(resident, "room_for", without_room)
    choices = iter([Choice("gpu", "it fits"), Choice("memory", "it fits")])
    monkeypatch.setattr(resident, "pick_residence", lambda *_, **__: next(choices))
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

    # Memory that was free when it was chosen, and is another process's when it is taken.
    monkeypatch.setattr(resident, "room_for", without_room)

    assert train().choices["features"].startswith("file (memory has no room for them any more")


def test_a_device_that_fails_while_a_head_is_evaluated_is_a_device_error(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train().path

    def fail(*_: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.nn.Linear, "forward", fail)

    with pytest.raises(DeviceError, match="Evaluation failed on cpu: CUDA error: unspecified"):
        featcache.evaluate(run)
