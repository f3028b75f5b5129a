"""A sweep in groups: who trains a head, and what dies meanwhile, changes no bit of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.errors import InterruptedRunError, UsageError
from featcache.training.sweeps import bank_trainer

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


@pytest.mark.enable_socket  # the workers' store, on the loopback address
def test_heads_that_broke_off_before_are_counted_alike_on_any_number_of_devices(
    sweep: Sweep, tmp_path: Path
) -> None:
    sweep = partial(sweep, reg=("none", "dropout"), lr=(0.1, 1e30), seeds=4)
    with pytest.raises(InterruptedRunError):  # the first group has 4 heads that broke off by then
        sweep(devices="cpu:1", on_progress=stop_in(2))
    shutil.copytree(tmp_path / "runs", tmp_path / "others")

    by_one = sweep(devices="cpu:1", runs_dir=tmp_path / "others")
    by_two = sweep(devices="cpu:2")

    assert by_two.n_trained == by_one.n_trained == 12
    assert heads_in(tmp_path / "runs") == heads_in(tmp_path / "others")
    assert by_two.choices["device"] == "cpu (2 of 2 devices asked for)"


def test_one_group_is_trained_in_this_process_however_many_devices_there_are(
    sweep: Sweep,
) -> None:
    notes: list[str] = []

    result = sweep(devices="cpu:3", reg=("none", "l2"), on_note=notes.append)

    assert result.n_trained == 8
    assert not any(" workers for " in note for note in notes)
    assert result.choices["device"] == "cpu (1 of 3 devices asked for)"


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
