"""The figures against scikit-learn's and SciPy's."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as scipy_t
from sklearn.metrics import (
    confusion_matrix as sklearn_confusion,
)
from sklearn.metrics import (
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from featcache.evaluation.metrics import (
    LOSSES,
    SHARES,
    Interval,
    MeanEstimate,
    Spread,
    auroc,
    bootstrap,
    calibration_error,
    confusion_cells,
    macro_f1,
    mcnemar_p,
    per_class,
    student_t,
)
from featcache.heads.predictions import label_ranks

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 400)
PROBABILITIES = RNG.dirichlet(np.ones(5), 400)
PROBABILITIES[np.arange(400), LABELS] += 0.3
PROBABILITIES /= PROBABILITIES.sum(1, keepdims=True)
PREDICTIONS = PROBABILITIES.argmax(1)


@pytest.mark.parametrize(
    ("b", "c"),
    [
        *[(0, 0), (3, 0), (10, 25), (40, 40), (1811, 518), (5000, 4900)],
        *[(20_400, 19_600), (21_000, 19_000), (100_000, 101_000), (60_000, 0)],
    ],
)
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    started = time.process_time()

    p = mcnemar_p(b, c)

    assert p == pytest.approx(expected, rel=1e-9)
    assert time.process_time() - started < 1  # seconds of CPU; summed term by term it took 25


def test_f1_and_the_table_are_scikit_learns() -> None:
    precision, recall, f1, n = precision_recall_fscore_support(LABELS, PREDICTIONS)

    table = per_class(LABELS, PREDICTIONS, list("abcde"))

    assert [c.precision for c in table] == pytest.approx(precision)
    assert [c.recall for c in table] == pytest.approx(recall)
    assert [c.f1 for c in table] == pytest.approx(f1)
    assert [c.n for c in table] == n.tolist()
    expected = f1_score(LABELS, PREDICTIONS, average="macro")
    assert macro_f1(LABELS, PREDICTIONS, 5) == pytest.approx(expected)


def test_classes_that_do_not_occur_do_not_count() -> None:
    labels, predictions = np.array([0, 0, 2]), np.array([0, 2, 2])

    assert macro_f1(labels, predictions, 9) == f1_score(labels, predictions, average="macro")
    assert per_class(labels, predictions, list("abcdefghi"))[8].f1 == 0.0


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_is_scikit_learns(k: int) -> None:
    share = (label_ranks(LABELS, PROBABILITIES) < k).mean()

    assert share == pytest.approx(top_k_accuracy_score(LABELS, PROBABILITIES, k=k))


def test_ties_do_not_flatter_a_head_that_knows_nothing() -> None:
    labels = np.arange(5)

    ranks = label_ranks(labels, np.full((5, 5), 0.2))

    assert ranks.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("n_digits", [16, 2, 1, 0])  # the fewer, the more ties
def test_auroc_is_scikit_learns(n_digits: int) -> None:
    scores = PROBABILITIES[:, 2].round(n_digits)

    area = auroc(LABELS == 2, scores)

    assert area == pytest.approx(roc_auc_score(LABELS == 2, scores), abs=1e-12)


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.95, 0.05]] * 10 + [[0.35, 0.65]] * 10)
    labels = np.array([0] * 9 + [1] + [1] * 5 + [0] * 5)

    error = calibration_error(probabilities.argmax(1) == labels, probabilities.max(1))

    assert error == pytest.approx((0.05 + 0.15) / 2, abs=1e-6)


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    confidences = np.array([1.0] * 10 + [0.95] * 10)
    is_right = np.array([True] * 8 + [False] * 2 + [True] * 10)

    assert calibration_error(is_right, confidences) == pytest.approx(0.975 - 0.9, abs=1e-6)


def test_the_cells_are_those_of_scikit_learns_confusion_matrix() -> None:
    cells = confusion_cells(LABELS, PREDICTIONS, 5)

    matrix = np.zeros((5, 5), np.int64)
    matrix[cells[:, 0], cells[:, 1]] = cells[:, 2]
    assert np.array_equal(matrix, sklearn_confusion(LABELS, PREDICTIONS))
    assert (cells[:, 2] > 0).all()


def test_the_interval_of_a_share_is_the_binomials() -> None:
    right = np.arange(1000) < 800

    estimate = bootstrap(lambda rows: float(right[rows].mean()), 1000, n_draws=2000, seed=0)

    half = 1.96 * math.sqrt(0.8 * 0.2 / 1000)
    assert estimate.value == 0.8
    assert estimate.low == pytest.approx(0.8 - half, abs=0.003)
    assert estimate.high == pytest.approx(0.8 + half, abs=0.003)


def test_a_spread_has_the_sample_deviation() -> None:
    assert Spread.of([1.0, 2.0, 4.0]) == Spread(7 / 3, pytest.approx(1.5275252), 1.0, 4.0, 3)  # type: ignore[arg-type]
    assert Spread.of([1.0]).sd is None


@pytest.mark.parametrize(
    ("df", "known"),
    # The table of any textbook, at 0.975.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (120, 1.980)],
)
def test_quantiles_of_students_t_are_those_of_the_tables_and_of_scipy(
    df: int, known: float
) -> None:
    assert student_t(0.975, df) == pytest.approx(known, abs=5e-4)
    for p in (0.5, 0.9, 0.975, 0.9995):
        assert student_t(p, df) == pytest.approx(scipy_t.ppf(p, df), rel=1e-9, abs=1e-12)


def test_one_further_figure_lies_within_its_prediction_interval_in_95_of_100() -> None:
    figures = np.random.default_rng(0).normal(0.8, 0.003, (4000, 6))

    within = [row[0] in (Spread.of(row[1:].tolist()).prediction() or ()) for row in figures]

    assert np.mean(within) == pytest.approx(0.95, abs=0.01)


def test_one_figure_predicts_nothing() -> None:
    assert Spread.of([0.8]).prediction() is None
    assert Spread.of([0.8, 0.8]).prediction() == Interval(0.8, 0.8)


def test_intervals_end_where_no_figure_can_be() -> None:
    accs, losses = [0.9, 0.98], [0.02, 0.3]

    of_acc, of_loss = MeanEstimate.of(accs, SHARES), MeanEstimate.of(losses, LOSSES)

    reach = 12.7062 * 0.04  # t(1, 0.975) and half the difference, which is sd / sqrt(2)
    assert (of_acc.low, of_acc.high) == (pytest.approx(0.94 - reach, abs=1e-4), 1.0)
    assert of_loss.low == 0.0
    assert of_loss.high == pytest.approx(0.16 + 12.7062 * 0.14, abs=1e-4)
    assert Spread.of(accs).prediction(SHARES) == Interval(pytest.approx(0.0597, abs=1e-4), 1.0)  # type: ignore[arg-type]
