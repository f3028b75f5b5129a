"""A probe: the simplest classifiers on the features of caches, side by side."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.config import SolverSpec
from featcache.core.reporting import silent
from featcache.evaluation.metrics import Estimate, bootstrap
from featcache.evaluation.plots import require_matplotlib
from featcache.heads.treatment import UnitLength
from featcache.insight.classifiers import Sample, fit
from featcache.insight.few_shot_plot import plot_few_shot
from featcache.insight.probe_cache import Classifier, answers_of
from featcache.insight.probe_result import as_csv
from featcache.insight.probe_rows import choose_rows, few_of_each_class, load_part
from featcache.training.solvers.fit import fit_rows
from featcache.training.solvers.rows import SolverRows
from tests.feature_caches import CLASS_NAMES, IDENTITY, MakeCache, Rows, learnable_rows
from tests.insight.unequal_rows import rows_of
from tests.training.solvers.digits import log_probabilities

CPU = torch.device("cpu")


def blurred(rows: Rows, noise: float) -> Rows:
    """The same images by a worse backbone."""
    rng = np.random.default_rng(7)
    features = rows.features + noise * rng.standard_normal(rows.features.shape)
    return Rows(features.astype("<f4"), rows.labels, rows.ids, rows.reasons)


@pytest.fixture
def blurred_cache(make_cache: MakeCache) -> Path:
    """The images of the default cache by a worse backbone, where one more cannot be read."""
    train = learnable_rows(200, seed=1, unreadable=(5, 70, 71))
    splits = {"train": blurred(train, 3.0), "test": blurred(learnable_rows(60, seed=2), 3.0)}
    return make_cache(
        "cache/folder-toys/blur-00000000.h5",
        splits=splits,
        identity={**IDENTITY, "backbone": "blur"},
    )


def test_each_classifier_has_its_accuracy_with_an_interval(cache: featcache.Cache) -> None:
    result = featcache.probe(cache)

    [found] = result.caches
    by_solver = {one.solver: one for one in found.classifiers}
    assert (result.n_train, result.n_val, result.n_test, result.split) == (158, 40, 60, "test")
    assert list(by_solver) == ["majority", "ncm", "knn", "logreg"]
    assert by_solver["majority"].acc.value == pytest.approx(1 / 3)
    assert by_solver["majority"].loss is None
    for solver in ("ncm", "knn", "logreg"):
        one = by_solver[solver]
        assert one.acc.low < one.acc.value < one.acc.high
        assert one.acc.value > 0.7
        assert one.loss is not None
        assert one.loss < 1
        assert one.difference is None
        assert one.balanced_acc is None  # classes are equal
    assert by_solver["knn"].setting.startswith("k ")
    assert by_solver["logreg"].setting.startswith("C ")


def test_the_accuracies_are_those_of_the_solvers_fitted_to_the_same_rows(
    cache: featcache.Cache,
) -> None:
    rows = choose_rows([cache], max_rows=None, seed=0, on_note=silent)
    train, val, test = (
        SolverRows.of_arrays(load_part(cache, part, device=CPU), part.labels)
        for part in (rows.train, rows.val, rows.test)
    )

    found = {one.solver: one for one in featcache.probe(cache).caches[0].classifiers}

    specs = {"ncm": {}, "knn": {}, "logreg": {"C": (1e-4, 1e-3, 1e-2, 1e-1), "refit": False}}
    for solver, own in specs.items():
        fitted = fit_rows(train, val, SolverSpec(solver=solver, **own), class_names=CLASS_NAMES)
        log_p = log_probabilities(fitted, test)
        right = (log_p.argmax(1) == test.labels).double().mean()
        assert found[solver].acc.value == pytest.approx(float(right))
        loss = -log_p.gather(1, test.labels[:, None]).mean()
        assert found[solver].loss == pytest.approx(float(loss), rel=1e-4)
    assert found["logreg"].setting == f"C {fitted.fit.found['C']:g}"


@pytest.mark.parametrize("n_rows", [30, 6])  # more rows than features, and fewer
def test_a_basis_of_the_rows_changes_no_answer_of_logistic_regression(n_rows: int) -> None:
    features, labels = torch.randn(n_rows, 12), torch.arange(n_rows) % 3
    test = torch.randn(50, 12)

    found = fit("logreg", Sample(features, labels, 4), None)

    spec = SolverSpec(solver="logreg", features="l2", C=1.0, refit=False)
    alone = fit_rows(SolverRows.of_arrays(features, labels), None, spec, class_names=CLASS_NAMES)
    expected = alone.fit.log_probabilities(UnitLength()(test))
    log_p = found.log_p(UnitLength()(test))
    torch.testing.assert_close(log_p[:, :3].double(), expected, atol=1e-4, rtol=1e-4)
    assert (log_p[:, 3] == -torch.inf).all()  # of the class without a row


def test_of_many_rows_their_space_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    eigh, sides = torch.linalg.eigh, list[int]()
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: (sides.append(len(m)), eigh(m))[1])
    labels = torch.arange(2100) % 2
    features = torch.randn(2100, 2200) + labels[:, None]

    found = fit("logreg", Sample(features, labels, 2), None)

    assert max(sides) < 2048
    assert (found.log_p(UnitLength()(features)).argmax(1) == labels).double().mean() > 0.9


def test_a_best_setting_at_an_end_of_those_tried_is_told(make_cache: MakeCache) -> None:
    splits = {"train": learnable_rows(200, seed=1), "test": learnable_rows(60, seed=2)}
    for rows in splits.values():  # of noise nothing is learnt: the largest penalty is best
        rows.features[:] = np.random.default_rng(len(rows.ids)).standard_normal(rows.features.shape)

    found = featcache.probe(make_cache(splits=splits))

    told = found.remarks
    assert (
        "logreg on toy-00000000: the best C, 0.0001, is at an end of those that probe tries. "
        "Others beyond it may be better: featcache train-head --solver logreg --C takes any"
    ) in told
    is_told = any(t.startswith("knn on toy-00000000: the best k, ") for t in told)
    assert is_told == (found.caches[0].classifiers[2].setting in ("k 10", "k 100"))


def test_an_interval_of_few_tries_is_told(cache: featcache.Cache) -> None:
    said = "the intervals of the curve are of 2 tries: of so few they are wide"

    assert said in featcache.probe(cache, per_class=1, tries=2).remarks
    assert not [t for t in featcache.probe(cache, per_class=1, tries=4).remarks if "tries:" in t]


def test_caches_are_compared_with_the_first_image_by_image(
    cache: featcache.Cache, blurred_cache: Path
) -> None:
    alone = featcache.probe(blurred_cache).caches[0].classifiers

    result = featcache.probe([cache, blurred_cache, cache.path])

    first, second = result.caches
    assert result.n_train == 157  # what can be read for both
    for one, other in zip(first.classifiers, second.classifiers, strict=True):
        assert one.difference is None
        assert other.difference is not None
        assert other.difference.value == pytest.approx(other.acc.value - one.acc.value)
    by_classes = second.classifiers[1]
    assert by_classes.difference is not None
    assert by_classes.difference.high < 0
    assert second.classifiers[0].difference == Estimate(0.0, 0.0, 0.0)
    assert alone[1].acc.value == pytest.approx(by_classes.acc.value, abs=0.05)


def test_the_interval_of_a_difference_is_that_of_paired_images(
    cache: featcache.Cache, blurred_cache: Path
) -> None:
    both = [cache, featcache.open_cache(blurred_cache)]
    options = {"per_class": (), "tries": 1, "seed": 4, "device": CPU}

    second = featcache.probe(both, draws=300, seed=4).caches[1]

    rows = choose_rows(both, max_rows=None, seed=4, on_note=silent)
    labels = rows.test.labels.numpy()
    one, other = (answers_of(c, rows, **options).predictions[Classifier("ncm")] for c in both)
    gained = (other == labels).astype(float) - (one == labels)
    expected = bootstrap(lambda drawn: float(gained[drawn].mean()), 60, n_draws=300, seed=4)
    assert second.classifiers[1].difference == expected


def test_unequal_classes_have_a_balanced_accuracy(make_cache: MakeCache) -> None:
    splits = {"train": rows_of(60, 30, 20, seed=1), "test": rows_of(40, 10, 10, seed=2)}

    classifiers = featcache.probe(make_cache(splits=splits)).caches[0].classifiers

    assert all(one.balanced_acc is not None for one in classifiers)
    majority = classifiers[0]
    assert majority.balanced_acc is not None
    assert majority.acc.value == pytest.approx(40 / 60)
    assert majority.balanced_acc.value == pytest.approx(1 / 3)


def test_without_test_images_those_of_validation_are_tested_and_choose_nothing(
    make_cache: MakeCache,
) -> None:
    notes: list[str] = []
    path = make_cache("alone.h5", splits={"train": learnable_rows(200, seed=1)})

    result = featcache.probe(path, on_note=notes.append)

    assert (result.split, result.n_test) == ("val", 40)
    assert (result.n_train, result.n_val) == (128, 32)
    assert (
        "alone.h5 has no test images: the 40 images of validation are tested, and a share of the "
        "training images chooses settings" in notes
    )


def test_more_rows_than_asked_for_are_left_out_evenly(cache: featcache.Cache) -> None:
    notes: list[str] = []

    rows = choose_rows([cache], max_rows=30, seed=0, on_note=notes.append)

    shares = torch.bincount(rows.all_train.labels) / 158 * 30
    assert torch.allclose(torch.bincount(rows.train.labels).float(), shares, atol=1)
    assert len(rows.train.rows) == 30
    assert (len(rows.val.rows), len(rows.test.rows)) == (8, 60)
    assert notes == ["30 of 158 training images are fitted, as asked for"]
    other = choose_rows([cache], max_rows=30, seed=1, on_note=notes.append)
    assert not torch.equal(other.train.rows, rows.train.rows)


def test_a_few_of_each_class_are_among_a_few_more() -> None:
    labels = torch.tensor([2, 0, 2, 0, 0, 2, 0, 2, 2, 0])

    one, three = (few_of_each_class(labels, n, seed=3) for n in (1, 3))

    assert labels[one].sort().values.tolist() == [0, 2]
    assert torch.bincount(labels[three]).tolist() == [3, 0, 3]
    assert set(one.tolist()) < set(three.tolist())
    assert three.tolist() == sorted(three.tolist())
    draws = {tuple(few_of_each_class(labels, 3, seed=seed).tolist()) for seed in range(9)}
    assert len(draws) > 1


def test_the_few_shot_curve_is_the_mean_over_draws(cache: featcache.Cache) -> None:
    result = featcache.probe(cache, per_class=(8, 1), tries=3)
    once = featcache.probe(cache, per_class=8, tries=1)

    [found], [single] = result.caches, once.caches
    points = {(p.solver, p.per_class): p.acc for p in found.few_shot}
    assert list(points) == [(s, n) for s in ("ncm", "knn", "logreg") for n in (1, 8)]
    for solver in ("ncm", "knn", "logreg"):
        acc = points[solver, 8]
        assert acc.n == 3
        assert acc.low is not None
        assert acc.low <= acc.mean
        assert acc.mean > points[solver, 1].mean
    assert {p.acc.low for p in single.few_shot} == {None}


def test_numbers_that_a_class_does_not_have_are_left_out(make_cache: MakeCache) -> None:
    splits = {"train": rows_of(40, 40, 10, seed=1), "test": learnable_rows(60, seed=2)}

    result = featcache.probe(make_cache(splits=splits), per_class=(2, 16, 4, 32))

    assert [p.per_class for p in result.caches[0].few_shot if p.solver == "ncm"] == [2, 4]
    assert result.remarks[0].startswith(
        "--per-class 16,32 is left out: 'cow', the smallest class, has "
    )


def test_classes_that_are_tested_but_were_not_fitted_are_told(make_cache: MakeCache) -> None:
    splits = {"train": rows_of(40, 40, 0, seed=1), "test": learnable_rows(60, seed=2)}

    result = featcache.probe(make_cache(splits=splits))

    assert result.n_classes == 2
    assert result.remarks[0] == (
        "20 tested images are of 1 class without a fitted image, such as 'cow': no classifier can "
        "name them"
    )
    assert all(one.acc.value <= 2 / 3 for one in result.caches[0].classifiers)


def test_pixels_are_taken_as_they_are_stored(tmp_path: Path) -> None:
    path = featcache.extract(
        "digits", backbone="pixels", image_size=16, limit=90, cache_dir=tmp_path
    ).path
    cache = featcache.open_cache(path)
    rows = choose_rows([cache], max_rows=20, seed=0, on_note=silent)

    features = load_part(cache, rows.train, device=CPU)

    stored = cache["train"].features[:][rows.train.rows.numpy()].reshape(20, 192)
    np.testing.assert_allclose(features.numpy(), stored / 127.5 - 1, atol=1e-6)


def test_all_figures_stand_in_one_table(cache: featcache.Cache, blurred_cache: Path) -> None:
    result = featcache.probe([cache, blurred_cache], per_class=(1, 2), tries=2)

    rows = list(csv.DictReader(as_csv(result).splitlines()))

    assert len(rows) == 2 * (4 + 3 * 2)
    assert [row["solver"] for row in rows[:4]] == ["majority", "ncm", "knn", "logreg"]
    whole, few = rows[11], rows[14]
    ncm = result.caches[1].classifiers[1]
    assert ncm.difference is not None
    assert float(whole["acc_low"]) == ncm.acc.low
    assert float(whole["difference"]) == ncm.difference.value
    assert (few["per_class"], few["n_train"], few["difference"]) == ("1", "3", "")
    assert {row["backbone"] for row in rows} == {"toy", "blur"}


def test_the_curve_is_drawn_as_png_and_svg(
    cache: featcache.Cache, blurred_cache: Path, tmp_path: Path
) -> None:
    require_matplotlib()
    result = featcache.probe([cache, blurred_cache], per_class=(1, 2), tries=2)

    files = plot_few_shot(result, runs_dir=tmp_path / "runs")

    assert [f.suffix for f in files] == [".png", ".svg"]
    assert {f.parent for f in files} == {tmp_path / "runs" / "folder-toys"}
    assert b"<svg" in files[1].read_bytes()
