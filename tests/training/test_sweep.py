"""A sweep's heads are those of train_head; the choice is made on validation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.config import REGULARISATIONS
from featcache.errors import (
    CorruptError,
    DeviceError,
    InterruptedRunError,
    NonFiniteError,
    UsageError,
)
from featcache.heads.head_file import load_head
from featcache.heads.run_files import read_run
from featcache.heads.runs import RUN_FILES, newest_run
from featcache.store import locked
from featcache.training.sweeps import bank_trainer
from featcache.training.sweeps.entry import Entry, SweepCheckpoint
from featcache.training.sweeps.table import markdown_table
from featcache.training.train_result import TrainResult
from tests.feature_caches import IDENTITY, MakeCache, Rows, learnable_rows
from tests.memory_limits import leave_memory

Train = Callable[..., TrainResult]
Sweep = Callable[..., featcache.SweepResult]
GRID = {"reg": ("none", "l1l2", "dropout"), "lr": (1e-3, 1e-2), "hidden": ((8,), ())}
ALL_REGS = {"reg": REGULARISATIONS, "lr": (1e-3, 1e-2), "hidden": ((8,), ())}


@pytest.fixture
def sweep(cache: featcache.Cache, tmp_path: Path) -> Sweep:
    return partial(featcache.sweep, cache, max_epochs=3, batch_size=16, runs_dir=tmp_path / "runs")


def stop_in(epoch: int) -> Callable[[featcache.SweepProgress], None]:
    def on_progress(progress: featcache.SweepProgress) -> None:
        if progress.epoch == epoch:
            raise KeyboardInterrupt

    return on_progress


def test_without_a_name_the_run_that_a_sweep_chose_is_taken(
    sweep: Sweep, cache: featcache.Cache, tmp_path: Path
) -> None:
    result = sweep(**GRID, seeds=2)
    best = result.settings[0].runs[0]
    for age, path in enumerate((best, *result.settings[-1].runs)):
        os.utime(path / RUN_FILES[0], (age, age + 1e10))

    chosen = newest_run(tmp_path / "runs")
    alone = featcache.train_head(cache, max_epochs=1, runs_dir=tmp_path / "runs").runs[0].path
    os.utime(alone / RUN_FILES[0], (2e10, 2e10))

    assert (chosen.value, result.json.name in chosen.why) == (best, True)
    assert newest_run(tmp_path / "runs") == (alone, "the newest finished run")
    for broken in ("{", "[]", '{"settings": [{"runs": 1}]}'):
        result.json.write_text(broken)
        assert newest_run(tmp_path / "runs").value == alone


def test_a_sweep_that_found_all_its_runs_came_last_too(
    sweep: Sweep, cache: featcache.Cache, tmp_path: Path
) -> None:
    first = sweep(reg=("none", "l2"))
    alone = featcache.train_head(cache, max_epochs=1, runs_dir=tmp_path / "runs").path
    after_alone = newest_run(tmp_path / "runs").value

    again = sweep(reg=("none", "l2"))

    assert (after_alone, again.n_trained) == (alone, 0)
    assert newest_run(tmp_path / "runs").value == first.settings[0].runs[0]


def test_each_head_is_the_one_trained_alone(
    sweep: Sweep, cache: featcache.Cache, tmp_path: Path
) -> None:
    result = sweep(**ALL_REGS, seeds=2, patience=0)

    assert len(result.settings) == 18  # a linear probe has no dropout
    assert result.n_trained == 36
    for setting in result.settings:
        for seed, path in enumerate(setting.runs):
            spec = setting.head
            alone = featcache.train_head(
                cache,
                hidden=spec.hidden,
                reg=spec.reg,
                dropout=spec.dropout or None,
                lr=setting.lr,
                batch_size=16,
                max_epochs=3,
                patience=0,
                seeds=2,
                order_seed=0,
                runs_dir=tmp_path / "alone",
            ).runs[seed]
            assert alone.path.name == path.name
            assert sorted(p.name for p in path.iterdir()) == sorted(RUN_FILES)
            ours, theirs = read_run(path).history, alone.history
            for name in ("epoch", "step", "train_loss", "val_loss", "val_acc"):
                np.testing.assert_allclose(
                    [row[name] for row in ours], [row[name] for row in theirs], rtol=1e-5
                )
            head, other = load_head(path), load_head(alone.path)
            assert (head.spec, head.train, head.split) == (other.spec, other.train, other.split)
            ours_csv, theirs_csv = ((p / "metrics.csv").read_text() for p in (path, alone.path))
            assert ours_csv.splitlines()[0] == theirs_csv.splitlines()[0]
            assert len(ours_csv) == pytest.approx(len(theirs_csv), rel=0.1)


def test_the_best_setting_is_chosen_on_validation_and_alone_is_tested(sweep: Sweep) -> None:
    result = sweep(**GRID, seeds=2)

    losses = [setting.val_loss.mean for setting in result.settings if setting.val_loss]
    assert losses == sorted(losses)
    tested = [[read_run(path).test_acc is not None for path in s.runs] for s in result.settings]
    assert tested == [[True, True], *[[False, False]] * 9]
    assert result.test_acc is not None
    accuracies = [featcache.evaluate(path).acc.value for path in result.settings[0].runs]
    assert result.test_acc.mean == pytest.approx(np.mean(accuracies))


def test_a_run_that_was_left_untested_is_tested_when_it_is_asked_for(
    sweep: Sweep, cache: featcache.Cache, tmp_path: Path
) -> None:
    worst = sweep(**GRID).settings[-1]

    [run] = featcache.train_head(
        cache,
        hidden=worst.head.hidden,
        reg=worst.head.reg,
        dropout=worst.head.dropout or None,
        lr=worst.lr,
        batch_size=16,
        max_epochs=3,
        runs_dir=tmp_path / "runs",
    ).runs

    assert (run.path, run.outcome) == (worst.runs[0], "reused")
    assert run.test_acc == pytest.approx(featcache.evaluate(run.path).acc.value)
    assert read_run(run.path).test_acc == run.test_acc


def test_heads_stop_early_each_for_itself(sweep: Sweep, train: Train, tmp_path: Path) -> None:
    options = {"max_epochs": 30, "patience": 2, "min_delta": 0.05}

    result = sweep(lr=(1e-3, 3e-2, 0.3), **options)

    n_epochs = {setting.lr: setting.n_epochs for setting in result.settings}
    assert len(set(n_epochs.values())) > 1
    for lr, n in n_epochs.items():
        alone = train(lr=lr, hidden=(50, 20), runs_dir=tmp_path / "alone", **options)
        assert alone.runs[0].n_epochs == n


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_stopped_sweep_goes_on_to_the_same_bits(
    sweep: Sweep, tmp_path: Path, select: str
) -> None:
    options = {"reg": ("none", "dropout"), "lr": (1e-2, 0.3), "max_epochs": 9, "patience": 2}
    sweep = partial(sweep, **options, select=select, min_delta=0.05)
    whole = sweep(runs_dir=tmp_path / "whole")
    with pytest.raises(InterruptedRunError, match=r"heads? finished, .* goes on from there\."):
        sweep(on_progress=stop_in(4))
    [checkpoint] = (tmp_path / "runs").rglob("sweep-*.partial")

    resumed = sweep()

    assert not checkpoint.exists()
    assert [s.val_loss for s in resumed.settings] == [s.val_loss for s in whole.settings]
    for ours, theirs in zip(resumed.settings, whole.settings, strict=True):
        for a, b in zip(ours.runs, theirs.runs, strict=True):
            names = ("head.safetensors", "metrics.csv")
            assert all((a / n).read_bytes() == (b / n).read_bytes() for n in names)


def test_the_same_sweep_trains_nothing_twice(sweep: Sweep) -> None:
    first = sweep(**GRID)

    again = sweep(**GRID)

    assert (first.n_trained, again.n_trained) == (10, 0)
    assert again.settings == first.settings
    assert again.markdown.read_text() == markdown_table(first)
    assert len(json.loads(again.json.read_text())["settings"]) == 10


def test_a_head_that_blows_up_ends_alone(make_cache: MakeCache, tmp_path: Path) -> None:
    rows = learnable_rows(200, seed=1)
    huge = Rows(rows.features * np.float32(1e19), rows.labels, rows.ids, {})
    path = make_cache(identity=IDENTITY, splits={"train": huge, "test": huge})

    result = featcache.sweep(path, lr=(1e-12, 1e30), hidden=((8,),), runs_dir=tmp_path / "runs")

    good, bad = result.settings
    assert good.val_loss is not None
    assert bad.problem.startswith("the loss became ")
    assert bad.runs == ()
    assert "the loss became" in markdown_table(result)


def test_heads_that_do_not_fit_side_by_side_go_in_several_passes(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = sweep(**GRID, runs_dir=tmp_path / "whole")
    leave_memory(monkeypatch, tmp_path / "root", 10_000)
    notes: list[str] = []

    result = sweep(**GRID, on_note=notes.append)

    assert sum("heads in this pass" in note for note in notes) >= 2
    for ours, theirs in zip(result.settings, whole.settings, strict=True):
        assert ours.val_loss is not None
        assert theirs.val_loss is not None
        assert ours.val_loss.mean == pytest.approx(theirs.val_loss.mean, rel=1e-5)


def test_a_sweep_stopped_in_its_second_pass_goes_on_there(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    leave_memory(monkeypatch, tmp_path / "root", 20_000)
    whole = sweep(**GRID, runs_dir=tmp_path / "whole")
    n_passes = 0

    def stop(progress: featcache.SweepProgress) -> None:
        nonlocal n_passes
        n_passes += progress.epoch == 0
        if n_passes == 2 and progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="the others are kept as of epoch 2"):
        sweep(**GRID, on_progress=stop)
    notes: list[str] = []
    resumed = sweep(**GRID, on_note=notes.append)

    assert any(note.startswith("going on after epoch 2,") for note in notes)
    for ours, theirs in zip(resumed.settings, whole.settings, strict=True):
        a, b = (s.runs[0] / "head.safetensors" for s in (ours, theirs))
        assert a.read_bytes() == b.read_bytes()


def test_a_kill_between_a_run_and_the_checkpoint_loses_nothing(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {"lr": (1e-3, 3e-2, 0.3), "max_epochs": 30, "patience": 2, "min_delta": 0.05}
    whole = sweep(**options, runs_dir=tmp_path / "whole")
    save = bank_trainer.BankRun._save

    def save_or_die(self: bank_trainer.BankRun) -> None:
        if self.finished:
            raise SystemExit("killed")
        save(self)

    with monkeypatch.context() as patched:
        patched.setattr(bank_trainer.BankRun, "_save", save_or_die)
        with pytest.raises(SystemExit):
            sweep(**options)
    resumed = sweep(**options)

    assert resumed.n_trained == 2
    assert [s.val_loss for s in resumed.settings] == [s.val_loss for s in whole.settings]


@pytest.mark.parametrize(("seconds_per_save", "n_saved"), [(3600.0, 1), (0.0, 3)])
def test_heads_are_written_when_they_are_done_and_every_half_minute(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, seconds_per_save: float, n_saved: int
) -> None:
    saved: list[Path] = []
    write = SweepCheckpoint.write

    def counted(self: SweepCheckpoint, path: Path) -> None:
        saved.append(path)
        write(self, path)

    # No test lasts half a minute.
    monkeypatch.setattr(bank_trainer, "_SECONDS_PER_SAVE", seconds_per_save)
    monkeypatch.setattr(SweepCheckpoint, "write", counted)

    sweep(lr=(1e-3, 1e-2))  # of three epochs, in which none stops early

    assert len(saved) == n_saved


def test_a_stop_between_two_epochs_keeps_the_last_whole_one(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {"lr": (1e-3, 1e-2), "max_epochs": 4}
    whole = sweep(**options, runs_dir=tmp_path / "whole")
    keep_if_best = Entry.keep_if_best

    def stop(self: Entry, parameters: Sequence[torch.Tensor]) -> None:
        if len(self.state.history) == 3:
            raise KeyboardInterrupt
        keep_if_best(self, parameters)

    with monkeypatch.context() as patched:
        patched.setattr(Entry, "keep_if_best", stop)
        with pytest.raises(InterruptedRunError, match="kept as of epoch 2"):
            sweep(**options)
    resumed = sweep(**options)

    for mine, theirs in zip(resumed.settings, whole.settings, strict=True):
        a, b = (s.runs[0] / "head.safetensors" for s in (mine, theirs))
        assert a.read_bytes() == b.read_bytes()
        assert mine.n_epochs == theirs.n_epochs == 4


def test_a_damaged_checkpoint_is_told(sweep: Sweep, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        sweep(on_progress=stop_in(2))
    [checkpoint] = (tmp_path / "runs").rglob("sweep-*.partial")
    checkpoint.write_bytes(checkpoint.read_bytes()[:300])

    with pytest.raises(CorruptError, match=r"sweep-.* is damaged .* Remove it: the heads"):
        sweep()


def test_a_head_that_somebody_else_trains_is_left_to_him(sweep: Sweep, tmp_path: Path) -> None:
    rates = (1e-3, 1e-2)
    [path] = sweep(lr=rates, runs_dir=tmp_path / "elsewhere").settings[0].runs
    own = tmp_path / "runs" / path.parent.name / path.name
    own.parent.mkdir(parents=True)

    with locked(own):
        result = sweep(lr=rates)

    assert [bool(setting.problem) for setting in result.settings] == [False, True]
    assert result.settings[1].problem.startswith("another process trains this head")
    assert not own.exists()
    assert sweep(lr=rates).n_trained == 1


def test_a_grid_without_one_good_head_is_an_error_with_its_table(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    rows = learnable_rows(200, seed=1)
    huge = Rows(rows.features * np.float32(1e19), rows.labels, rows.ids, {})
    path = make_cache(splits={"train": huge, "test": huge})

    with pytest.raises(NonFiniteError, match=r"No setting .* the loss became .*\.md\. Use a lower"):
        featcache.sweep(path, lr=(1e30,), hidden=((8,),), runs_dir=tmp_path / "runs")


def test_settings_that_come_to_the_same_are_one(sweep: Sweep) -> None:
    result = sweep(
        reg=("dropout",), dropout=((0.5, 0.3), (0.5, 0.2)), hidden=((8,),), lr=(1e-3, 0.001)
    )

    assert len(result.settings) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reg": ("l3",)}, "--reg is 'l3'"),
        ({"lr": ()}, "The grid has no setting: --lr gives none"),
        ({"reg": ("dropout",), "hidden": ((),)}, "The grid has no setting"),
        ({"l1": (1e-4,)}, "--l1 does nothing with --reg none"),
        ({"lr": (1e-3, 0.0)}, "--lr is 0"),
        ({"seeds": 0}, "--seeds is 0"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(
    sweep: Sweep, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sweep(**options)


def test_a_sweep_runs_in_full_precision_whatever_the_user_has_set(sweep: Sweep) -> None:
    inside = set()

    torch.set_float32_matmul_precision("high")
    try:
        sweep(on_progress=lambda _: inside.add(torch.get_float32_matmul_precision()))
        users_own = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision("highest")

    assert (inside, users_own) == ({"highest"}, "high")


def test_a_device_that_fails_in_a_sweep_leaves_the_last_epoch(sweep: Sweep, tmp_path: Path) -> None:
    whole = sweep(patience=0, runs_dir=tmp_path / "whole")

    def fail(progress: featcache.SweepProgress) -> None:
        if progress.epoch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(
        DeviceError,
        match=r"failed on cpu: CUDA out of memory.* 0 of 1 head finished, the others are kept "
        r"as of epoch 2\. Run the same command again when more memory is free",
    ):
        sweep(patience=0, on_progress=fail)
    notes: list[str] = []
    resumed = sweep(patience=0, on_note=notes.append)

    assert "going on after epoch 2, 1 head at once" in notes
    assert resumed.settings[0].val_loss == whole.settings[0].val_loss


def test_a_callers_inference_mode_changes_nothing(sweep: Sweep, tmp_path: Path) -> None:
    plain = sweep(**GRID)

    with torch.inference_mode():
        inside = sweep(**GRID, runs_dir=tmp_path / "inside")

    assert [s.val_loss for s in inside.settings] == [s.val_loss for s in plain.settings]
    assert inside.test_loss == plain.test_loss


def test_heads_that_were_there_are_told_with_where_they_were_trained(sweep: Sweep) -> None:
    notes: list[str] = []
    sweep(lr=(1e-3, 1e-2))

    sweep(lr=(1e-3, 1e-2, 3e-2), on_note=notes.append)

    assert f"2 runs reused, trained on cpu with torch {torch.__version__}" in notes
