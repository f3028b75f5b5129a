"""A sweep over the values of a solver."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.errors import InterruptedRunError, UsageError
from featcache.heads.run_files import read_run
from featcache.training.sweeps.table import SweepResult, name_of
from tests.feature_caches import MakeCache, learnable_rows

Sweep = Callable[..., SweepResult]


@pytest.fixture
def sweep(cache: featcache.Cache, tmp_path: Path) -> Sweep:
    return partial(featcache.sweep, cache, runs_dir=tmp_path / "runs")


def test_each_value_is_a_run_and_only_the_best_is_tested(sweep: Sweep) -> None:
    result = sweep(solver="logreg", C=(1e-4, 1e-1, 1e2))

    losses = [setting.val_loss.mean for setting in result.settings if setting.val_loss]
    runs = [read_run(setting.runs[0]) for setting in result.settings]
    assert losses == sorted(losses)
    assert result.n_trained == 3
    assert [run.test_acc is None for run in runs] == [False, True, True]
    assert result.test_acc is not None
    assert result.test_acc.mean == runs[0].test_acc
    assert [run.val_loss for run in runs] == losses
    assert sorted(map(name_of, result.settings)) == [
        f"--solver logreg --features standard --C {C}" for C in ("0.0001", "0.1", "100")
    ]
    assert "--C 0.1" in result.markdown.read_text()


def test_a_run_of_a_sweep_is_what_train_head_fits_alone(
    sweep: Sweep, cache: featcache.Cache, tmp_path: Path
) -> None:
    result = sweep(solver="logreg", C=(1e-2, 1))

    for setting in result.settings:
        alone = featcache.train_head(
            cache, solver="logreg", C=setting.solver.C, runs_dir=tmp_path / "alone"
        ).runs[0]
        assert alone.path.name == setting.runs[0].name
        assert alone.val_loss == pytest.approx(read_run(setting.runs[0]).val_loss, abs=1e-5)
        ours, theirs = (featcache.load_head(path) for path in (setting.runs[0], alone.path))
        assert abs(ours.arrays["1.weight"] - theirs.arrays["1.weight"]).max() < 1e-5
    untested = result.settings[1].runs[0]
    tested = featcache.train_head(
        cache, solver="logreg", C=result.settings[1].solver.C, runs_dir=tmp_path / "runs"
    ).runs[0]
    assert (tested.path, tested.test_acc is not None) == (untested, True)


def test_a_sweep_that_is_there_is_used(sweep: Sweep) -> None:
    first = sweep(solver="knn", k=(1, 5, 20))

    again = sweep(solver="knn", k=(1, 5, 20))

    assert (first.n_trained, again.n_trained) == (3, 0)
    assert [s.runs for s in again.settings] == [s.runs for s in first.settings]
    assert again.test_acc == first.test_acc


def test_treatments_are_settings_too(sweep: Sweep) -> None:
    result = sweep(solver="ncm", features=("raw", "standard", "l2"))

    assert {setting.solver.features for setting in result.settings} == {"raw", "standard", "l2"}


def test_the_best_of_a_sweep_is_what_eval_takes(sweep: Sweep, tmp_path: Path) -> None:
    result = sweep(solver="knn", k=(1, 5, 20))

    evaluation = featcache.evaluate(runs_dir=tmp_path / "runs")

    assert evaluation.run == result.settings[0].runs[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"solver": "logreg", "val_fraction": 0, "C": 1}, "No validation images are left"),
        ({"solver": "ridge", "reg": ("l1", "l2")}, "--reg does nothing with --solver ridge"),
        ({"solver": "ridge", "lr": 1e-3}, "--lr does nothing with --solver ridge"),
        ({"solver": "lda", "seeds": 2}, "--seeds does nothing with --solver lda"),
        ({"features": ("standard", "l2")}, "--features standard is not for a sweep of MLPs"),
        ({"solver": "ncm", "features": ("raw", "white")}, "--features is 'white', but must be"),
    ],
)
def test_what_a_sweep_of_solvers_cannot_do_is_refused(
    sweep: Sweep, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        sweep(**options)


def test_the_usual_k_above_the_number_of_rows_are_left_out_each_time(sweep: Sweep) -> None:
    first = sweep(solver="knn")  # 158 rows, so that 200 of them cannot vote

    again = sweep(solver="knn")

    assert sorted(setting.solver.k for setting in first.settings) == [(10,), (20,), (100,)]
    assert [read_run(setting.runs[0]).found["k"] for setting in first.settings] == [
        setting.solver.k[0] for setting in first.settings
    ]
    assert (first.n_trained, again.n_trained) == (3, 0)
    assert again.test_acc == first.test_acc


def test_fewer_rows_than_the_least_usual_k_all_vote(make_cache: MakeCache, tmp_path: Path) -> None:
    splits = {"train": learnable_rows(9, seed=1), "val": learnable_rows(9, seed=2)}

    result = featcache.sweep(make_cache(splits=splits), solver="knn", runs_dir=tmp_path / "runs")

    [setting] = result.settings
    assert setting.solver.k == (9,)
    assert read_run(setting.runs[0]).found == {"k": 9}


def test_ctrl_c_tells_that_finished_runs_are_kept(sweep: Sweep) -> None:
    sweep(solver="logreg", C=(1e-4, 1e-1))

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match=r"Runs that are finished are kept; the same"):
        sweep(solver="logreg", C=(1e-4, 1e-1, 1), on_progress=stop)
    assert sweep(solver="logreg", C=(1e-4, 1e-1, 1)).n_trained == 1
