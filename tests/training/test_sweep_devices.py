"""A sweep in groups: who trains a head, and what dies meanwhile, changes no bit of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]

import featcache
from featcache.config import HeadSpec, TrainSpec
from featcache.core.reporting import silent
from featcache.core.workers.messages import FAILED, REFUSED, claimed_key, written_error
from featcache.errors import (
    DeviceError,
    DiskFullError,
    InterruptedRunError,
    MismatchError,
    UsageError,
)
from featcache.training.sweeps import bank_trainer
from featcache.training.sweeps.devices.taking import train_taken
from featcache.training.sweeps.devices.watching import SweepWatch
from featcache.training.sweeps.devices.work import (
    GROUPS,
    SweepWork,
    broken_key,
    progress_key,
    read_states,
    written_groups,
    written_states,
)
from featcache.training.sweeps.entry import Entry, EntryState
from featcache.training.sweeps.groups import HeadGroup, groups_of
from featcache.training.sweeps.head_bank import Member
from tests.feature_caches import IDENTITY, MakeCache, Rows, learnable_rows

Sweep = Callable[..., featcache.SweepResult]
GRID: dict[str, Any] = {
    "reg": ("none", "l2", "dropout"),
    "lr": (1e-2, 0.1),
    "hidden": ((8,),),
    "seeds": 2,
    "max_epochs": 6,
    "patience": 2,
    "min_delta": 0.05,
}  # 12 heads in two groups, of which some stop early


@pytest.fixture
def sweep(cache: featcache.Cache, tmp_path: Path) -> Sweep:
    return partial(featcache.sweep, cache, batch_size=16, runs_dir=tmp_path / "runs", **GRID)


@pytest.fixture
def whole(sweep: Sweep, tmp_path: Path) -> dict[str, Any]:
    """The heads of a sweep on one device that nothing has cut."""
    sweep(devices="cpu:1", runs_dir=tmp_path / "whole")
    return heads_in(tmp_path / "whole")


@pytest.fixture
def store() -> Store:
    """What workers share, within this process."""
    return HashStore()


def heads_in(runs_dir: Path) -> dict[str, Any]:
    """What must be the same of each head: its bytes, its curves, its figures but for the time."""
    found = {}
    for run in sorted(path.parent for path in runs_dir.glob("*/*/head.safetensors")):
        figures = json.loads((run / "result.json").read_text())
        del figures["seconds"]
        contents = [(run / name).read_bytes() for name in ("head.safetensors", "metrics.csv")]
        found[run.name] = (*contents, figures)
    return found


def stop_in(epoch: int) -> Callable[[featcache.SweepProgress], None]:
    def on_progress(progress: featcache.SweepProgress) -> None:
        if progress.epoch == epoch:
            raise KeyboardInterrupt

    return on_progress


def entry_of(folder: Path, seed: int, *, hidden: tuple[int, ...] = (8,), lr: float = 0.1) -> Entry:
    train = TrainSpec(lr=lr, seed=seed, order_seed=0, max_epochs=2, patience=0, batch_size=16)
    path = folder / "runs" / "folder-toys" / f"toy-{lr:g}-{seed}-{len(hidden)}"
    return Entry(path, Member(path.name, HeadSpec(hidden=hidden), lr, seed), train)


def groups_in(folder: Path, n_heads: int = 3) -> list[HeadGroup]:
    """Groups of one head each."""
    stem = folder / "runs" / "folder-toys" / "sweep-00000000"
    entries = [entry_of(folder, seed, hidden=(4 + seed,)) for seed in range(n_heads)]
    for entry in entries:
        entry.path.parent.mkdir(parents=True, exist_ok=True)
    return groups_of(entries, stem, n_features=12, n_classes=3)


def work_on(cache: featcache.Cache, **fields: Any) -> SweepWork:
    usual = SweepWork(
        cache=str(cache.path),
        fingerprint=cache.fingerprint,
        devices=("cpu", "cpu"),
        stays_in_file="",
        n_threads=1,
        port=0,
        leader=0,
        path=(),
    )
    return replace(usual, **fields)


def watch_of(store: Store, groups: Sequence[HeadGroup], notes: list[str]) -> SweepWatch:
    return SweepWatch(store, groups, on_progress=silent, on_note=notes.append)


def claim(store: Store, attempt: int, *numbers: int) -> None:
    text = "".join(f"{number}," for number in numbers)
    store.append(claimed_key(attempt), text)  # type: ignore[attr-defined]


@pytest.mark.enable_socket  # the workers' store, on the loopback address
def test_two_workers_make_the_heads_of_one_process(
    sweep: Sweep, whole: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notes: list[str] = []

    result = sweep(devices="cpu:2", on_note=notes.append)

    assert heads_in(tmp_path / "runs") == whole
    assert result.n_trained == len(whole) == 12
    assert "2 workers for 2 groups: cpu, cpu" in notes
    assert sorted(path.suffix for path in result.json.parent.glob("sweep-*")) == [".json", ".md"]
    assert capfd.readouterr().out == ""


def test_one_group_is_trained_in_this_process_however_many_devices_there_are(
    sweep: Sweep,
) -> None:
    notes: list[str] = []

    result = sweep(devices="cpu:3", reg=("none", "l2"), on_note=notes.append)

    assert result.n_trained == 8
    assert not any(" workers for " in note for note in notes)


@pytest.mark.parametrize("stopped_in", [1, 4])
def test_a_stopped_sweep_in_groups_goes_on_to_the_same_bits(
    sweep: Sweep, whole: dict[str, Any], tmp_path: Path, stopped_in: int
) -> None:
    with pytest.raises(InterruptedRunError, match=r"finished, .* goes on from there\."):
        sweep(devices="cpu:1", on_progress=stop_in(stopped_in))
    notes: list[str] = []

    sweep(devices="cpu:1", on_note=notes.append)

    assert any(note.startswith("group 1 goes on after epoch ") for note in notes)
    assert heads_in(tmp_path / "runs") == whole
    assert not list((tmp_path / "runs").rglob("*.partial"))


@pytest.mark.parametrize("n_before", [0, 1, 4])
def test_a_kill_between_two_folders_changes_no_bit_of_those_that_go_on(
    sweep: Sweep,
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    n_before: int,
) -> None:
    left, begin = [n_before], bank_trainer.begin_folder

    def begin_or_die(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise SystemExit("killed")
        begin(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(bank_trainer, "begin_folder", begin_or_die)
        with pytest.raises(SystemExit):
            sweep(devices="cpu:1")
    assert len(heads_in(tmp_path / "runs")) == n_before

    sweep(devices="cpu:1")

    assert heads_in(tmp_path / "runs") == whole


def test_groups_follow_from_the_heads_and_not_from_the_order_in_which_they_were_typed(
    tmp_path: Path,
) -> None:
    shapes, rates = ((8,), (), (8, 4)), (0.1, 0.01)
    grid = [
        entry_of(tmp_path, seed, hidden=shape, lr=lr)
        for shape in shapes
        for lr in rates
        for seed in range(9)
    ]
    stem = tmp_path / "sweep-00000000"

    typed, reversed_ = (
        groups_of(entries, stem, n_features=12, n_classes=3) for entries in (grid, grid[::-1])
    )

    assert [[e.path for e in g.entries] for g in typed] == [
        [e.path for e in g.entries] for g in reversed_
    ]
    assert [len(g.entries) for g in typed] == [8, 8, 2] * 3
    assert all(len({e.member.spec.hidden for e in g.entries}) == 1 for g in typed)
    assert [g.checkpoint.name for g in typed[:2]] == [
        "sweep-00000000-group-0.partial",
        "sweep-00000000-group-1.partial",
    ]


def test_heads_of_many_parameters_have_a_group_each(tmp_path: Path) -> None:
    grid = [entry_of(tmp_path, seed, hidden=(256,)) for seed in range(3)]

    groups = groups_of(grid, tmp_path / "sweep", n_features=150_528, n_classes=10)

    assert [len(group.entries) for group in groups] == [1, 1, 1]


def test_workers_take_each_group_once_and_say_what_broke_off(
    make_cache: MakeCache, store: Store, tmp_path: Path
) -> None:
    rows = learnable_rows(200, seed=1)
    huge = Rows(rows.features * np.float32(1e19), rows.labels, rows.ids, {})
    path = make_cache(identity=IDENTITY, splits={"train": huge, "test": huge})
    cache = featcache.open_cache(path)
    groups = groups_in(tmp_path)
    [entry] = groups[1].entries
    entry.train = replace(entry.train, lr=1e30)
    store.set(GROUPS, written_groups(groups))

    train_taken(work_on(cache), store, rank=0, attempt=0)
    train_taken(work_on(cache), store, rank=1, attempt=0)
    watch = watch_of(store, groups, [])
    watch.finish()

    assert store.get(claimed_key(0)) == b"0,1,2,"
    assert [group.is_done for group in groups] == [True, False, True]
    assert read_states(store.get(broken_key(1))).keys() == {entry.path.name}
    assert entry.state.problem.startswith("the loss became ")
    assert store.check([progress_key(0)])


def test_what_broke_off_is_not_tried_again_by_a_sweep_that_goes_on(
    make_cache: MakeCache, store: Store, tmp_path: Path
) -> None:
    rows = learnable_rows(200, seed=1)
    huge = Rows(rows.features * np.float32(1e19), rows.labels, rows.ids, {})
    cache = featcache.open_cache(make_cache(splits={"train": huge, "test": huge}))
    [group] = groups_in(tmp_path, 1)
    [entry] = group.entries
    entry.train = replace(entry.train, lr=1e30)
    store.set(GROUPS, written_groups([group]))
    train_taken(work_on(cache), store, rank=0, attempt=0)
    told = store.get(broken_key(0))
    store.set(broken_key(0), "{}")

    train_taken(work_on(cache), store, rank=0, attempt=1)

    assert store.get(broken_key(0)) == told
    assert not store.check([progress_key(1)])


def test_a_worker_takes_no_group_once_another_has_refused(
    cache: featcache.Cache, store: Store, tmp_path: Path
) -> None:
    groups = groups_in(tmp_path)
    store.set(GROUPS, written_groups(groups))
    store.set(REFUSED, written_error(MismatchError("no")))

    train_taken(work_on(cache), store, rank=0, attempt=0)

    assert not any(group.is_done for group in groups)


@pytest.mark.parametrize("moment", ["before_start", "look", "finish"])
def test_what_a_worker_refuses_ends_the_sweep_at_once(
    store: Store, tmp_path: Path, moment: str
) -> None:
    watch = watch_of(store, groups_in(tmp_path), [])
    watch.before_start()
    store.set(REFUSED, written_error(DiskFullError("no room is left")))

    with pytest.raises(DiskFullError, match="no room is left"):
        getattr(watch, moment)()


def test_a_worker_refuses_a_cache_that_was_replaced(
    cache: featcache.Cache, store: Store, tmp_path: Path
) -> None:
    store.set(GROUPS, written_groups(groups_in(tmp_path)))

    with pytest.raises(MismatchError, match="is another cache than when the sweep began"):
        train_taken(work_on(cache, fingerprint="0" * 64), store, rank=0, attempt=0)


def test_features_that_do_not_fit_in_every_process_stay_in_the_file(
    cache: featcache.Cache, store: Store, tmp_path: Path
) -> None:
    kept, alone = groups_in(tmp_path / "file", 1), groups_in(tmp_path / "memory", 1)
    for groups, why in ((kept, "no room for two"), (alone, "")):
        store.set(GROUPS, written_groups(groups))
        train_taken(work_on(cache, stays_in_file=why), store, rank=0, attempt=len(why))

    [one], [other] = kept[0].entries, alone[0].entries
    for name in ("head.safetensors", "metrics.csv"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


def test_a_group_whose_worker_dies_three_times_ends_the_sweep(store: Store, tmp_path: Path) -> None:
    notes: list[str] = []
    groups = groups_in(tmp_path)
    watch = watch_of(store, groups, notes)
    watch.before_start()
    for attempt in range(2):
        claim(store, attempt, 0, 1)
        groups[1].checkpoint.write_text("an epoch")
        os.utime(groups[1].checkpoint, (attempt, attempt))
        watch.before_start()
    claim(store, 2, 0, 1)
    os.utime(groups[1].checkpoint, (9, 9))

    with pytest.raises(DeviceError) as err:
        watch.before_start()

    [head] = groups[0].entries
    assert str(err.value) == (
        f"Workers ended 3 times while they trained {head.path.name}, before an epoch was saved. 0 "
        f"of 3 heads finished, the others are kept as of the last epoch that was saved. Memory may "
        f"be short for so many. Run the same command with fewer devices."
    )
    assert notes == ["a worker ended; all are started again, and go on"] * 2


def test_workers_that_die_before_their_first_group_end_the_sweep_with_what_they_said(
    store: Store, tmp_path: Path
) -> None:
    watch = watch_of(store, groups_in(tmp_path), [])
    for _ in range(3):
        watch.before_start()
    store.set(FAILED, "no memory")

    with pytest.raises(
        DeviceError, match=r"ended \(no memory\) 3 times before they trained a head"
    ):
        watch.before_start()


def test_progress_is_that_of_all_groups(store: Store, tmp_path: Path) -> None:
    told: list[featcache.SweepProgress] = []
    watch = SweepWatch(store, groups_in(tmp_path), on_progress=told.append, on_note=silent)
    watch.before_start()
    watch.look()
    one = featcache.SweepProgress(1, 0, 2, 4, 20, 40, 1.0, 0.5)
    store.set(progress_key(1), json.dumps(vars(one)))
    store.set(broken_key(2), "{}")  # it is over
    watch = SweepWatch(store, groups_in(tmp_path), on_progress=told.append, on_note=silent)
    watch.before_start()
    watch.look()

    [progress] = told
    assert (progress.n_heads, progress.n_finished) == (3, 0)
    assert (progress.epoch, progress.n_done, progress.n_total) == (2, 60, 120)
    assert progress.best_val_loss == 0.5


def test_states_that_come_back_from_a_worker_are_those_that_it_had(tmp_path: Path) -> None:
    [entry] = [entry_of(tmp_path, 0)]
    entry.state = EntryState(problem="the loss became nan at step 3", best=[torch.zeros(1)])
    [group] = groups_of([entry], tmp_path / "sweep", n_features=12, n_classes=3)

    found = read_states(written_states(group.entries).encode())

    assert found[entry.path.name].problem == entry.state.problem
    assert found[entry.path.name].best is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": "gpu"}, "--devices is 'gpu', but must be a number of GPUs"),
        ({"devices": "cpu:2", "device": "cpu"}, "--device cpu and --devices cpu:2 both say"),
    ],
)
def test_devices_that_make_no_sense_are_refused(
    sweep: Sweep, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sweep(**options)


def test_a_sweep_of_another_solver_takes_no_devices(cache: featcache.Cache) -> None:
    with pytest.raises(UsageError, match="--devices is for a sweep of MLPs: --solver logreg fits"):
        featcache.sweep(cache, solver="logreg", devices="cpu:2")
