"""Logistic regression beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from featcache.core.memory import FreeMemory
from featcache.training.solvers import centred
from featcache.training.solvers.linear import LinearFit
from featcache.training.solvers.logistic import LogisticProblems, fit_logistic
from featcache.training.solvers.rows import SolverRows
from tests.training.solvers.digits import Digits, digits

Array = npt.NDArray[np.float64]


def probabilities(fit: LinearFit, features: npt.NDArray[np.float32]) -> Array:
    found: Array = fit.log_probabilities(torch.from_numpy(features)).exp().numpy()
    return found


def scikit_learn(data: Digits, C: float) -> Array:  # noqa: N803
    model = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)  # its 1e-8 is off by 2e-4 at C 10
    model.fit(data.train.astype(np.float64), data.train_labels)
    found: Array = model.predict_proba(data.test.astype(np.float64))
    return found


@pytest.mark.parametrize("C", [1e-3, 1e-1, 1.0, 10.0])
def test_probabilities_are_those_of_scikit_learn(C: float) -> None:  # noqa: N803
    data = digits()

    [fit] = fit_logistic(data.rows, [C], n_classes=10, exact=True)

    assert fit.found["converged"]
    assert np.abs(probabilities(fit, data.test) - scikit_learn(data, C)).max() <= 1e-4


@pytest.mark.parametrize("C", [1e-2, 1.0])
def test_two_classes_share_one_vector_of_weights_as_scikit_learns_do(C: float) -> None:  # noqa: N803
    data = digits(classes=2)

    [fit] = fit_logistic(data.rows, [C], n_classes=2, exact=True)

    assert np.abs(probabilities(fit, data.test) - scikit_learn(data, C)).max() <= 1e-5
    assert not fit.weight[0].any()


def test_values_side_by_side_are_each_what_they_are_alone() -> None:
    data = digits()
    values = [1e-6, 1e-3, 1e-1]

    together = fit_logistic(data.rows, values, n_classes=10, exact=True)
    alone = [fit_logistic(data.rows, [C], n_classes=10, exact=True)[0] for C in values]

    assert [fit.found["C"] for fit in together] == values
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=1e-5)
    assert together[0].found["n_iterations"] < together[2].found["n_iterations"]


def test_a_fit_goes_on_from_where_another_ended() -> None:
    data = digits()
    [first] = fit_logistic(data.rows, [0.1], n_classes=10)

    [again] = fit_logistic(data.rows, [0.1], n_classes=10, start=[first])
    [exact] = fit_logistic(data.rows, [0.1], n_classes=10, start=[first], exact=True)

    assert (again.found["n_iterations"], again.found["converged"]) == (0, True)
    torch.testing.assert_close(again.weight, first.weight, rtol=0, atol=1e-12)
    assert exact.found["n_iterations"] > 0


def test_features_far_from_0_change_the_bias_alone() -> None:
    data = digits()
    moved = SolverRows.of_arrays(torch.from_numpy(data.train + 4), data.rows.labels)

    [fit] = fit_logistic(data.rows, [0.01], n_classes=10, exact=True)
    [other] = fit_logistic(moved, [0.01], n_classes=10, exact=True)

    torch.testing.assert_close(other.weight, fit.weight, rtol=0, atol=1e-5)
    found, expected = (probabilities(f, x) for f, x in ((other, data.test + 4), (fit, data.test)))
    assert np.abs(found - expected).max() < 1e-4


def test_rows_that_are_read_again_give_the_gradient_of_rows_that_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = digits()
    at = torch.randn(2, 650, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 50
    which = torch.arange(2)

    def evaluated(dtype: torch.dtype, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        problems = LogisticProblems(
            data.rows, [0.1, 10.0], n_classes=10, dtype=dtype, row_dtype=torch.float32
        )
        return problems.evaluate(at, which)

    values, gradients = evaluated(torch.float64, at)
    monkeypatch.setattr(centred, "free_memory", lambda _: FreeMemory(0, "memory"))
    again, same = evaluated(torch.float64, at)
    narrow, near = evaluated(torch.float32, at)

    assert torch.equal(again, values)
    assert torch.equal(same, gradients)
    torch.testing.assert_close(narrow, values, rtol=1e-6, atol=0)
    torch.testing.assert_close(near, gradients, rtol=0, atol=1e-6)
    step = torch.zeros_like(at)
    step[:, 7] = 1e-6
    moved, _ = evaluated(torch.float64, at + step)
    torch.testing.assert_close((moved - values) / 1e-6, gradients[:, 7], rtol=1e-4, atol=1e-8)
