"""A solver's head on a cache: a run folder like any other."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache
from featcache.core.side_files import partial_path
from featcache.errors import InterruptedRunError, NonFiniteError, UsageError
from featcache.features.split import training_rows
from featcache.heads.head_file import load_head
from featcache.heads.treatment import folded
from featcache.training.train_result import TrainResult
from tests.feature_caches import (
    CLASS_NAMES,
    IDENTITY,
    N_FEATURES,
    MakeCache,
    learnable_rows,
)
from tests.store.conftest import Rows

Fit = Callable[..., TrainResult]
OTHERS = ("logreg", "knn", "ncm", "ridge", "lda")
ONE = {"logreg": {"C": 0.1}, "knn": {"k": 5}}


@pytest.fixture
def fit(cache: featcache.Cache, tmp_path: Path) -> Fit:
    return partial(featcache.train_head, cache, runs_dir=tmp_path / "runs")


@pytest.mark.parametrize("solver", OTHERS)
def test_a_head_is_a_run_that_is_reused_evaluated_and_listed(
    fit: Fit, tmp_path: Path, solver: str
) -> None:
    trained = fit(solver=solver)

    [run], [again] = trained.runs, fit(solver=solver).runs
    evaluated = featcache.evaluate(run.path)
    [listed] = featcache.describe_runs(tmp_path / "runs")

    assert run.path.name.startswith(f"toy-{solver}-")
    assert (run.outcome, again.outcome, again.path) == ("trained", "reused", run.path)
    assert (again.val_loss, again.test_loss) == (run.val_loss, run.test_loss)
    assert run.test_acc is not None
    assert run.test_acc > 0.7
    assert evaluated.acc.value == pytest.approx(run.test_acc)
    assert evaluated.loss is not None
    assert evaluated.loss.value == pytest.approx(run.test_loss, abs=1e-5)
    assert (listed.state, listed.settings["solver"]) == ("finished", solver)
    assert listed.figures["test_acc"] == run.test_acc
    assert not list((tmp_path / "runs").glob("*/*.partial"))


@pytest.mark.parametrize("solver", ["knn", "ncm", "ridge", "lda"])
def test_the_figures_of_validation_are_those_of_eval(fit: Fit, solver: str) -> None:
    [run] = fit(solver=solver).runs

    evaluated = featcache.evaluate(run.path, split="val")

    assert evaluated.acc.value == pytest.approx(run.val_acc)
    assert evaluated.loss is not None
    assert evaluated.loss.value == pytest.approx(run.val_loss, abs=1e-5)


def test_a_refitted_head_is_not_evaluated_on_what_it_was_fitted_to(fit: Fit) -> None:
    refitted = fit(solver="logreg").path
    plain = fit(solver="logreg", refit=False).runs[0]

    with pytest.raises(UsageError, match=r"was fitted to its validation rows too.*--no-refit"):
        featcache.evaluate(refitted, split="val")
    evaluated = featcache.evaluate(plain.path, split="val")
    assert evaluated.loss is not None
    assert evaluated.loss.value == pytest.approx(plain.val_loss, abs=1e-5)
    assert plain.path != refitted
    told = json.loads((refitted / "result.json").read_text())
    assert told["found"]["refitted"]
    assert told["val_loss"] == pytest.approx(plain.val_loss, abs=1e-3)


def test_each_value_that_was_tried_stands_in_metrics(fit: Fit) -> None:
    run = fit(solver="logreg", C=(1e-3, 1e-1, 10)).runs[0]

    with (run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["C"]) for row in rows] == [1e-3, 1e-1, 10]
    losses = [float(row["val_loss"]) for row in rows]
    assert run.found["C"] == float(rows[int(np.argmin(losses))]["C"])
    assert run.val_loss == pytest.approx(min(losses), abs=1e-6)


@pytest.mark.parametrize("solver", OTHERS)
def test_no_validation_rows_leave_out_what_needs_them(fit: Fit, solver: str) -> None:
    [run] = fit(solver=solver, val_fraction=0, **ONE.get(solver, {})).runs

    evaluated = featcache.evaluate(run.path)

    assert (run.val_loss, run.val_acc) == (None, None)
    assert run.test_acc is not None
    has_probabilities = solver not in ("ncm", "ridge")
    assert (run.test_loss is not None) == has_probabilities
    assert (evaluated.loss is not None) == has_probabilities
    assert (evaluated.calibration_error is not None) == has_probabilities
    with pytest.raises(UsageError, match="--val-fraction 0, so that it has no validation rows"):
        featcache.evaluate(run.path, split="val")


@pytest.mark.parametrize(("solver", "said"), [("logreg", "--C has 13"), ("knn", "--k has 4")])
def test_a_choice_without_validation_rows_is_refused(fit: Fit, solver: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"{said} values, but no row is left to choose"):
        fit(solver=solver, val_fraction=0)


def test_an_mlp_needs_validation_rows(fit: Fit) -> None:
    with pytest.raises(UsageError, match="No validation images are left"):
        fit(val_fraction=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"solver": "ncm", "lr": 1.0}, "--lr does nothing with --solver ncm"),
        ({"solver": "lda", "seeds": 3}, "--seeds does nothing with --solver lda"),
        ({"solver": "ridge", "reg": "l2"}, "--reg does nothing with --solver ridge"),
        ({"solver": "knn", "C": 1.0}, "--C 1 does nothing with --solver knn"),
        ({"solver": "logreg", "k": 1}, "--k 1 does nothing with --solver logreg"),
        ({"C": (1.0, 0.25)}, "--C 1,0.25 does nothing with --solver mlp. .* Use --solver logreg"),
        ({"refit": False}, "--no-refit does nothing with --solver mlp"),
        ({"solver": "ncm", "refit": False}, "--no-refit does nothing with --solver ncm"),
        ({"temperature": 0.0712345678}, "--temperature 0.0712345678 does nothing with --solver"),
        ({"solver": "logreg", "C": 0}, "--C is 0, but must be a finite number above 0"),
        ({"solver": "logreg", "C": -1}, "--C is -1, but must be a finite number above 0"),
        ({"solver": "logreg", "C": range(1, 300)}, "--C has 299 values, but must have at most 200"),
        ({"solver": "logreg", "C": ()}, "--C has no value"),
        ({"solver": "knn", "k": 0}, "--k is 0, but must be at least 1"),
        ({"solver": "knn", "temperature": 0}, "--temperature is 0, but must be"),
        ({"solver": "knn", "k": 500}, r"--k 500 asks for more .* training rows \(158\)"),
        ({"solver": "svm"}, "--solver is 'svm', but must be one of mlp, logreg"),
        ({"features": "whitened"}, "--features is 'whitened', but must be one of raw"),
    ],
)
def test_what_makes_no_sense_is_refused(fit: Fit, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit(**options)


def with_labels(rows: Rows, labels: list[int]) -> Rows:
    return Rows(rows.features, np.array(labels, np.int64), rows.ids, rows.reasons)


@pytest.mark.parametrize("solver", ["logreg", "ncm", "lda"])
def test_a_class_without_training_rows_is_named(
    make_cache: MakeCache, tmp_path: Path, solver: str
) -> None:
    rows = learnable_rows(60, seed=1)
    splits = {
        "train": with_labels(rows, [i % 2 for i in range(60)]),
        "test": learnable_rows(9, seed=2),
    }

    with pytest.raises(UsageError, match=r"1 class of 3 have no training row: cow"):
        featcache.train_head(make_cache(splits=splits), solver=solver, runs_dir=tmp_path)


@pytest.mark.parametrize("solver", OTHERS)
def test_one_class_alone_teaches_nothing(
    make_cache: MakeCache, tmp_path: Path, solver: str
) -> None:
    splits = {"train": with_labels(learnable_rows(30, seed=1), [1] * 30)}

    with pytest.raises(UsageError, match=r"are of one class \(bee\)"):
        featcache.train_head(make_cache(splits=splits), solver=solver, runs_dir=tmp_path)


def test_a_row_that_is_no_number_is_named_and_nothing_is_left(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    rows = learnable_rows(60, seed=1)
    rows.features[7, 3] = np.inf

    with pytest.raises(NonFiniteError, match=r"^Row 7 \(.+\) holds NaN or an infinite number"):
        featcache.train_head(make_cache(splits={"train": rows}), solver="lda", runs_dir=tmp_path)
    assert not list(tmp_path.glob("folder-toys/*/*"))


@pytest.mark.parametrize("solver", ["logreg", "knn", "ridge"])
def test_rows_that_stay_in_the_file_give_the_same_head(fit: Fit, solver: str) -> None:
    whole = fit(solver=solver).runs[0]
    notes: list[str] = []

    read = fit(
        solver=solver,
        max_memory=3000,
        runs_dir=whole.path.parents[1] / "again",
        on_note=notes.append,
    ).runs[0]

    assert "features stay in the file, as asked for" in notes
    assert read.path.name == whole.path.name
    assert read.val_loss == pytest.approx(whole.val_loss, abs=1e-9)
    assert read.test_acc == whole.test_acc


@pytest.mark.parametrize("solver", ["logreg", "lda"])
def test_the_head_of_plain_layers_is_what_was_evaluated(
    fit: Fit, cache: featcache.Cache, solver: str
) -> None:
    run = fit(solver=solver)
    features = torch.from_numpy(cache["test"].features.copy())

    head = load_head(run.path)

    assert [type(layer).__name__ for layer in head.module()] == ["Standardise", "Linear"]
    plain = folded(head.module())
    assert [layer.weight.shape for layer in plain] == [(3, N_FEATURES)]
    right = (plain(features).argmax(1).numpy() == cache["test"].labels).mean()
    assert right == pytest.approx(run.runs[0].test_acc)
    assert head.class_names == CLASS_NAMES


def test_a_head_of_neighbours_holds_no_rows(fit: Fit, cache: featcache.Cache) -> None:
    head = load_head(fit(solver="knn", k=3).path)

    assert head.arrays == {}
    assert head.cache_fingerprint == cache.fingerprint
    assert head.found == {"k": 3}


def test_two_solvers_are_compared_on_the_same_images(fit: Fit) -> None:
    comparison = featcache.compare(fit(solver="knn").path, fit(solver="logreg").path)

    assert comparison.n_images == 60


@pytest.mark.parametrize("features", ["standard", "l2"])
def test_an_mlp_is_trained_on_treated_features(
    fit: Fit, cache: featcache.Cache, features: str
) -> None:
    options: dict[str, Any] = {"hidden": (8,), "batch_size": 16, "max_epochs": 3, "lr": 1e-2}

    trained = fit(features=features, **options)
    plain = fit(**options)

    run, head = trained.runs[0], load_head(trained.path)
    assert run.path != plain.path
    assert featcache.evaluate(run.path).loss.value == pytest.approx(run.test_loss, abs=1e-5)  # type: ignore[union-attr]
    assert fit(features=features, **options).runs[0].outcome == "reused"
    if features == "standard":
        _, rows, _, _ = training_rows(cache, val_fraction=None, split_seed=42)
        own = cache["train"].features[rows.sort().values.numpy()]
        np.testing.assert_allclose(head.arrays["0.mean"], own.mean(0), atol=1e-6)
        np.testing.assert_allclose(head.arrays["0.scale"], own.std(0), atol=1e-6)


def test_folds_are_of_features_as_they_are(fit: Fit) -> None:
    with pytest.raises(UsageError, match="--folds trains heads on features as they are"):
        fit(features="standard", folds=2)


def test_the_usual_treatment_is_told(fit: Fit) -> None:
    notes: list[str] = []

    fit(solver="ncm", on_note=notes.append)

    assert "features l2, as is usual with --solver ncm" in notes


def test_progress_of_logistic_regression_is_told(fit: Fit) -> None:
    told: list[Any] = []

    fit(solver="logreg", C=0.1, on_progress=told.append)

    first = told[0]
    assert (first.solver, first.n_done, first.max_steps, first.n_left) == ("logreg", 1, 1000, 1)


def test_the_45_values_of_dinov2_are_those_typed_out(fit: Fit) -> None:
    named = fit(solver="logreg", C="dinov2")

    typed = fit(solver="logreg", C=[10.0 ** (-6 + 11 * i / 44) for i in range(45)])

    assert (typed.path, typed.runs[0].outcome) == (named.path, "reused")


def test_a_solver_that_is_stopped_keeps_nothing_and_says_so(fit: Fit, tmp_path: Path) -> None:
    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match=r"Stopped\. Nothing was kept; the same"):
        fit(solver="logreg", on_progress=stop)

    assert featcache.list_runs(tmp_path / "runs") == []
    assert fit(solver="logreg").runs[0].outcome == "trained"


def test_a_head_of_neighbours_asks_its_own_cache_about_other_images(
    fit: Fit, make_cache: MakeCache, cache: featcache.Cache
) -> None:
    run = fit(solver="knn", k=3)
    identity = {**IDENTITY, "dataset_sha256": "1" * 64}
    rows = {"test": learnable_rows(60, seed=2)}
    other = make_cache("other.h5", identity=identity, splits=rows)

    evaluated = featcache.evaluate(run.path, cache=other)

    assert evaluated.acc.value == run.runs[0].test_acc


def test_each_row_of_training_is_its_own_neighbour_and_is_not_evaluated(fit: Fit) -> None:
    path = fit(solver="knn", k=1).path

    assert featcache.evaluate(path).train_acc is None
    with pytest.raises(UsageError, match=r"own nearest.*Nothing was evaluated. Use --split test"):
        featcache.evaluate(path, split="train")


def test_the_values_that_were_tried_stand_in_a_run_before_it_has_its_name(
    fit: Fit, tmp_path: Path
) -> None:
    name = fit(solver="knn", k=(1, 5)).path.relative_to(tmp_path / "runs")
    partial_run = partial_path(tmp_path / "again" / name)
    partial_run.mkdir(parents=True)
    (partial_run / "mine.txt").touch()  # it is told of when the run begins and when it is finished
    is_there: list[bool] = []

    def note(told: str) -> None:
        if "mine.txt" in told:
            is_there.append((partial_run / "metrics.csv").exists())

    fit(solver="knn", k=(1, 5), runs_dir=tmp_path / "again", on_note=note)

    assert is_there == [False, True]


@pytest.mark.parametrize("solver", ["logreg", "ncm", "lda"])
def test_folds_that_lack_a_class_are_refused_before_anything_is_fitted(
    make_cache: MakeCache, tmp_path: Path, solver: str
) -> None:
    rows = learnable_rows(60, seed=1)
    train = with_labels(rows, [2, *(i % 2 for i in range(59))])
    path = make_cache(splits={"train": train, "val": with_labels(rows, [0, 1] * 30)})
    runs = tmp_path / "runs"

    with pytest.raises(
        UsageError, match=rf"--folds is 3, but fold \d .*class 'cow', which has 1 image, .*{solver}"
    ):
        featcache.train_head(path, solver=solver, folds=3, runs_dir=runs)
    assert not [item for item in runs.rglob("*") if item.is_file()]
    alone = featcache.train_head(path, solver=solver, runs_dir=runs)
    assert alone.runs[0].outcome == "trained"
