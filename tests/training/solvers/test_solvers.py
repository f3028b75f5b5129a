"""Neighbours, class means, ridge and lda, each beside a few lines of numpy or scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import RidgeClassifierCV

import featcache
from featcache.config import SolverSpec
from featcache.core.memory import FreeMemory
from featcache.errors import NonFiniteError, UsageError
from featcache.features.rows import load_rows
from featcache.training.solvers import centred, conjugate
from featcache.training.solvers.centred import CentredRows
from featcache.training.solvers.conjugate import solve
from featcache.training.solvers.fit import Fitted, fit_rows
from featcache.training.solvers.lda import fit_discriminant, ledoit_wolf
from featcache.training.solvers.logistic import fit_logistic
from featcache.training.solvers.remarks import solver_remarks
from featcache.training.solvers.ridge import fit_ridge
from featcache.training.solvers.rows import RowsOfSplit, SolverRows, fitted_treatment
from featcache.training.solvers.temperature import fit_temperature
from tests.training.solvers.digits import digits, log_probabilities, rows_of

Array = npt.NDArray[np.float64]
NAMES = [str(i) for i in range(10)]
ONE: dict[str, dict[str, int]] = {"logreg": {"C": 1}, "knn": {"k": 5}}


def fitted(spec: SolverSpec, *, with_val: bool = True) -> Fitted:
    data = digits()
    val = rows_of(data.test[:300], data.test_labels[:300]) if with_val else None
    return fit_rows(data.rows, val, spec, class_names=NAMES)


def rows_to_test() -> SolverRows:
    data = digits()
    return rows_of(data.test[300:], data.test_labels[300:])


def normalised(features: npt.NDArray[np.float32]) -> Array:
    wide = features.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def brute_force_votes(k: int) -> Array:
    data = digits()
    similarity = normalised(data.test[300:]) @ normalised(data.train).T
    votes = np.zeros((len(similarity), 10))
    for i, row in enumerate(similarity):
        order = np.argsort(-row)[:k]
        weights = np.exp(row[order] / 0.07)
        weights /= weights.sum()
        for j, weight in zip(order, weights, strict=True):
            votes[i, data.train_labels[j]] += weight
    votes += 1 / k / 10
    return votes / votes.sum(1, keepdims=True)


def log_loss(p: Array, labels: npt.NDArray[np.int64]) -> float:
    return float(-np.log(p[np.arange(len(p)), labels]).mean())


@pytest.mark.parametrize("k", [1, 7, 100])
def test_neighbours_vote_as_brute_force_says(k: int) -> None:
    alone = fitted(SolverSpec(solver="knn", k=k))

    found = log_probabilities(alone, rows_to_test()).exp().numpy()

    expected = brute_force_votes(k)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_of_several_k_the_one_of_the_lowest_validation_loss_is_taken() -> None:
    ks = (3, 10, 300)
    losses = []
    for k in ks:
        alone = fitted(SolverSpec(solver="knn", k=k))
        assert alone.val is not None
        losses.append(alone.val.loss)

    chosen = fitted(SolverSpec(solver="knn", k=ks))

    assert chosen.fit.found == {"k": ks[int(np.argmin(losses))]}
    assert chosen.val is not None
    assert chosen.val.loss == min(losses)


def test_the_nearest_class_mean_is_that_of_brute_force() -> None:
    data = digits()

    found = fitted(SolverSpec(solver="ncm"))

    train, test = normalised(data.train), normalised(data.test[300:])
    means = np.stack([train[data.train_labels == k].mean(0) for k in range(10)])
    distances = ((test[:, None] - means) ** 2).sum(2)
    log_p = log_probabilities(found, rows_to_test()).numpy()
    assert (log_p.argmax(1) == distances.argmin(1)).all()
    scores = -distances / 2 / found.fit.found["temperature"]
    expected = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    np.testing.assert_allclose(log_p, expected, rtol=0, atol=1e-4)


def test_the_temperature_is_that_of_the_least_loss() -> None:
    data = digits()
    scores = torch.from_numpy(data.test[:, :10].astype(np.float64) * 3)
    labels = torch.from_numpy(data.test_labels)

    temperature = fit_temperature(scores, labels)

    counts = np.bincount(data.test_labels, minlength=10)[data.test_labels, None]
    targets = np.where(np.eye(10)[data.test_labels], (counts + 1), 1 / 9) / (counts + 2)

    def loss(t: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / t, torch.from_numpy(targets)))

    assert loss(temperature) <= min(loss(temperature * 1.01), loss(temperature / 1.01))


def test_scores_that_are_all_right_have_probabilities_below_1() -> None:
    labels = torch.arange(3).repeat(8)
    scores = torch.eye(3, dtype=torch.float64)[labels] * 40

    temperature = fit_temperature(scores, labels)

    p = (scores / temperature).softmax(1)
    torch.testing.assert_close(p.amax(1), torch.full((24,), 9 / 10, dtype=torch.float64))


@pytest.mark.parametrize("solver", ["ncm", "ridge"])
def test_a_head_that_is_right_on_all_validation_rows_is_not_certain(solver: str) -> None:
    labels = np.arange(60, dtype=np.int64) % 3
    noise = np.random.default_rng(0).normal(0, 0.01, (60, 3))
    rows = rows_of((np.eye(3)[labels] + noise).astype(np.float32), labels)

    found = fit_rows(rows, rows, SolverSpec(solver=solver), class_names=NAMES[:3])

    assert found.val is not None
    assert found.val.acc == 1.0
    assert 0.01 < found.val.loss < 0.1
    assert log_probabilities(found, rows).amax(1).exp().mean() == pytest.approx(21 / 22, abs=1e-3)


def test_ridge_on_features_that_never_vary_predicts_the_shares_of_the_classes() -> None:
    labels = np.array([0, 0, 0, 1], np.int64)

    fit = fit_ridge(rows_of(np.full((4, 5), 2.0, np.float32), labels), n_classes=2)

    assert not fit.weight.any()
    np.testing.assert_allclose(fit.bias.numpy(), [0.5, -0.5], atol=1e-12)


def test_ridge_is_that_of_scikit_learn_with_its_leave_one_out_alpha() -> None:
    data = digits()
    alphas = np.array([0.1, 1.0, 10.0, 100.0, 1000.0])
    other = RidgeClassifierCV(alphas=alphas).fit(data.train.astype(np.float64), data.train_labels)

    fit = fit_ridge(data.rows, n_classes=10, alphas=alphas.tolist())

    assert fit.found["alpha"] == pytest.approx(other.alpha_)
    np.testing.assert_allclose(fit.weight.numpy(), other.coef_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(fit.bias.numpy(), other.intercept_, rtol=0, atol=1e-8)


def wide_rows(n: int = 120, n_features: int = 2100) -> SolverRows:
    """More features than a matrix of them is made for."""
    rng = np.random.default_rng(5)
    labels = np.arange(n, dtype=np.int64) % 3
    features = rng.standard_normal((n, n_features)) * rng.uniform(0.1, 3, n_features)
    features[:, :3] += 5 * np.eye(3)[labels]
    return rows_of(features.astype(np.float32), labels)


def whole(rows: SolverRows) -> Array:
    found: Array = torch.cat([f for _, f in rows.chunks(torch.float64)]).numpy()
    return found


def test_ridge_of_many_features_is_that_of_scikit_learn() -> None:
    rows = wide_rows()
    alphas = np.array([10.0, 1000.0])
    other = RidgeClassifierCV(alphas=alphas).fit(whole(rows), rows.labels.numpy())

    fit = fit_ridge(rows, n_classes=3, alphas=alphas.tolist())

    assert (fit.found["alpha"], fit.found["converged"]) == (pytest.approx(other.alpha_), True)
    np.testing.assert_allclose(fit.weight.numpy(), other.coef_, rtol=0, atol=1e-5)


def test_conjugate_gradients_solve_what_a_cholesky_factor_solves() -> None:
    rows = CentredRows.by_mean(wide_rows())
    right = torch.randn(2, 2100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    steps: list[tuple[int, int, int]] = []

    found, told = solve(rows, right, scale=0.7, ridge=0.2, on_step=lambda *at: steps.append(at))

    assert [n for n, _, _ in steps] == list(range(1, len(steps) + 1))
    assert (steps[0][1:], steps[-1][1:]) == ((500, 2), (500, 0))
    matrix = 0.7 * rows.covariance() + 0.2 * torch.eye(2100, dtype=torch.float64)
    assert told == {"converged": True}
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right.T).T, rtol=0, atol=1e-4)


def test_conjugate_gradients_that_lead_nowhere_have_not_converged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conjugate, "_MOST_STEPS", 30)
    right = torch.ones(2, 2100, dtype=torch.float64)
    right[1, 7] = torch.nan
    steps: list[tuple[int, int, int]] = []

    _, told = solve(
        CentredRows.by_mean(wide_rows()),
        right,
        scale=0.7,
        ridge=0.2,
        on_step=lambda *at: steps.append(at),
    )

    assert told == {"converged": False}
    assert steps[-1] == (30, 30, 1)


def test_rows_in_the_file_get_no_copy_in_memory(cache: featcache.Cache) -> None:
    in_file, in_memory = (
        load_rows(cache, "train", device=torch.device("cpu"), residence=residence)
        for residence in ("file", "memory")
    )

    kept = [
        CentredRows.by_mean(
            SolverRows((RowsOfSplit(rows, torch.arange(len(rows.labels))),), cache.n_features)
        ).kept(torch.float32)
        for rows in (in_file, in_memory)
    ]

    assert [len(rows.portions) for rows in kept] == [0, 1]
    again, once = ([f for _, f in rows.chunks(torch.float32)] for rows in kept)
    assert torch.equal(torch.cat(again), torch.cat(once))


def test_conjugate_gradients_give_the_same_where_no_copy_of_the_rows_has_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = wide_rows()
    right = CentredRows.by_class(rows, 3).means
    kept, _ = solve(CentredRows.by_class(rows, 3), right, scale=0.7, ridge=0.2)

    monkeypatch.setattr(centred, "free_memory", lambda _: FreeMemory(0, "memory"))
    again, _ = solve(CentredRows.by_class(rows, 3), right, scale=0.7, ridge=0.2)

    assert torch.equal(again, kept)


def test_lda_is_that_of_a_shrunk_covariance_by_the_textbook() -> None:
    data = digits()
    wide = data.train.astype(np.float64)
    means = np.stack([wide[data.train_labels == k].mean(0) for k in range(10)])
    shrunk = LedoitWolf(assume_centered=True).fit(wide - means[data.train_labels])

    fit = fit_discriminant(data.rows, n_classes=10)

    assert fit.found["shrinkage"] == pytest.approx(shrunk.shrinkage_)
    weight = np.linalg.solve(shrunk.covariance_, means.T).T
    shares = np.bincount(data.train_labels) / len(wide)
    np.testing.assert_allclose(fit.weight.numpy(), weight, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        fit.bias.numpy(), np.log(shares) - 0.5 * (weight * means).sum(1), rtol=1e-6
    )


def test_the_shrinkage_of_many_features_is_nearly_the_exact_one() -> None:
    rows = CentredRows.by_class(wide_rows(), 3)
    features = torch.cat([f for _, f in rows.chunks(torch.float64)]).numpy()

    shrinkage, variance = ledoit_wolf(rows)

    n, p = features.shape
    square = ((features @ features.T / n) ** 2).sum()  # |S|^2, by the smaller side
    away = square / p - (features**2).mean() ** 2
    noise = (((features**2).sum(1) ** 2).mean() - square) / (p * n)
    assert shrinkage == pytest.approx(min(noise, away) / away, rel=0.05)
    assert variance == pytest.approx((features**2).mean())


def test_standardising_takes_mean_and_deviation_of_the_rows_and_spares_what_is_constant() -> None:
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((500, 5)) * 3 + 100).astype(np.float32)
    features[:, 2] = 7.1
    rows = rows_of(features, np.zeros(500, np.int64))

    treated = fitted_treatment(rows, "standard")(torch.from_numpy(features)).numpy()

    np.testing.assert_allclose(treated.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(treated.std(0), [1, 1, 0, 1, 1], atol=1e-5)


@pytest.mark.parametrize(
    "spec", [SolverSpec(solver=s) for s in ("logreg", "knn", "ncm", "ridge", "lda")]
)
def test_every_solver_reads_most_digits(spec: SolverSpec) -> None:
    rows = rows_to_test()

    log_p = log_probabilities(fitted(spec), rows)

    assert log_p.exp().sum(1).sub(1).abs().max() < 1e-9
    assert (log_p.argmax(1) == rows.labels).double().mean() > 0.8


@pytest.mark.parametrize("solver", ["logreg", "knn", "ncm", "ridge", "lda"])
def test_a_row_that_is_no_number_is_named(solver: str) -> None:
    data = digits()
    features = data.train.copy()
    features[41, 3] = np.nan

    with pytest.raises(NonFiniteError, match=r"Row 41 holds NaN or an infinite number. Nothing"):
        fit_rows(
            rows_of(features, data.train_labels),
            None,
            SolverSpec(solver=solver, **ONE.get(solver, {})),
            class_names=NAMES,
        )


@pytest.mark.parametrize("solver", ["logreg", "ncm", "lda"])
def test_a_class_without_training_rows_is_named(solver: str) -> None:
    data = digits()

    with pytest.raises(UsageError, match=r"1 class of 11 have no training row: many. This solver"):
        fit_rows(data.rows, data.test_rows, SolverSpec(solver=solver), class_names=[*NAMES, "many"])


@pytest.mark.parametrize("solver", ["knn", "ridge"])
def test_neighbours_and_ridge_need_no_row_of_every_class(solver: str) -> None:
    data = digits()

    found = fit_rows(
        data.rows, data.test_rows, SolverSpec(solver=solver), class_names=[*NAMES, "many"]
    )

    assert log_probabilities(found, data.test_rows).isfinite().all()


@pytest.mark.parametrize(("solver", "name"), [("logreg", "--C has 13"), ("knn", "--k has 4")])
def test_without_validation_rows_there_is_no_choice(solver: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} values, but no row is left to choose"):
        fitted(SolverSpec(solver=solver), with_val=False)


@pytest.mark.parametrize("solver", ["ncm", "ridge"])
def test_without_validation_rows_scores_have_no_temperature(solver: str) -> None:
    found = fitted(SolverSpec(solver=solver), with_val=False)

    assert (found.fit.found["temperature"], found.val) == (None, None)


def test_more_neighbours_than_rows_are_refused_and_the_default_is_cut() -> None:
    data = digits()
    few = rows_of(data.train[:50], data.train_labels[:50])

    with pytest.raises(UsageError, match=r"--k 60 asks for more neighbours than .* \(50\)"):
        fit_rows(few, data.test_rows, SolverSpec(solver="knn", k=60), class_names=NAMES)
    found = fit_rows(few, data.test_rows, SolverSpec(solver="knn"), class_names=NAMES)
    assert found.fit.found["k"] in (10, 20)


def test_a_refit_learns_the_validation_rows_and_keeps_the_figures_before_it() -> None:
    plain = fitted(SolverSpec(solver="logreg", C=(0.01, 0.1), refit=False))
    refitted = fitted(SolverSpec(solver="logreg", C=(0.01, 0.1)))

    assert plain.val is not None
    assert refitted.val is not None
    assert (plain.is_refitted, refitted.is_refitted) == (False, True)
    assert refitted.fit.found["C"] == plain.fit.found["C"]
    assert refitted.val.loss == pytest.approx(plain.val.loss, abs=1e-5)
    data = digits()
    val = rows_of(data.test[:300], data.test_labels[:300])
    losses = [
        float(-log_probabilities(f, val).gather(1, val.labels[:, None]).mean())
        for f in (plain, refitted)
    ]
    assert losses[1] < losses[0] == pytest.approx(plain.val.loss)


def told(spec: SolverSpec) -> list[str]:
    return list(solver_remarks(fitted(spec).found, spec))


def test_the_end_of_the_grid_is_told() -> None:
    [remark] = told(SolverSpec(solver="logreg", C=(1e-6, 1e-5)))

    assert remark.startswith("The best C, 1e-05, is at an end of those tried: others beyond")
    assert told(SolverSpec(solver="logreg", C=(1e-6, 0.3, 1e6))) == []
    assert told(SolverSpec(solver="logreg", C=1e-6)) == []


def test_what_did_not_converge_is_told() -> None:
    [fit] = fit_logistic(digits().rows, [1.0], n_classes=10, max_steps=1)

    [remark] = solver_remarks(fit.found, SolverSpec(solver="logreg", C=1))

    assert remark.startswith("logreg did not converge in 1 iteration: with more")


@pytest.mark.parametrize("solver", ["ncm", "ridge", "lda"])
def test_what_takes_no_steps_says_nothing_of_converging(solver: str) -> None:
    found = fitted(SolverSpec(solver=solver)).found

    assert "converged" not in found


def test_an_alpha_at_an_end_of_those_tried_is_told() -> None:
    fit = fit_ridge(digits().rows, n_classes=10, alphas=[1e7, 1e8])

    [remark] = solver_remarks(fit.found, SolverSpec(solver="ridge"))

    assert remark == "The best alpha, 1e+07, is at an end of those that ridge tries."
