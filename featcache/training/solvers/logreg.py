"""Logistic regression, with the C of the lowest validation loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from featcache.config import SolverSpec
from featcache.core.memory import free_memory
from featcache.training.solvers.linear import LinearFit
from featcache.training.solvers.logistic import MOST_STEPS_EXACT, fit_logistic
from featcache.training.solvers.rows import SolverRows
from featcache.training.solvers.solver import Fit
from featcache.training.solvers.steps import OnStep

T = TypeVar("T")
_COPIES = 30  # of the weights: ten steps and ten changes of gradients, and what is made of them


class LogisticRegression:
    """All values of C side by side, then the chosen one until its gradient is 0 to nine digits."""

    needs_every_class = True
    has_scores = False

    def fit(
        self, rows: SolverRows, spec: SolverSpec, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[LinearFit]:
        """Fit all values of C."""
        assert spec.C is not None, "settled before"
        fits: list[LinearFit] = []
        for values in _passes(spec.C, rows, n_classes):
            fits += fit_logistic(rows, values, n_classes=n_classes, on_step=on_step)
        return fits

    def finish(
        self, fits: Sequence[Fit], rows: SolverRows, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[LinearFit]:
        """Go on from the fits, on these rows, until they are exact."""
        start = [fit for fit in fits if isinstance(fit, LinearFit)]
        ends: list[LinearFit] = []
        for some in _passes(start, rows, n_classes):
            values = [fit.found["C"] for fit in some]
            ends += fit_logistic(
                rows,
                values,
                n_classes=n_classes,
                start=some,
                exact=True,
                max_steps=MOST_STEPS_EXACT,
                on_step=on_step,
            )
        return ends


def _passes(items: Sequence[T], rows: SolverRows, n_classes: int) -> Iterator[Sequence[T]]:
    """Divide what is fitted side by side, so that it has room in a quarter of what is free."""
    of_one = n_classes * (rows.n_features + 1) * 8 * _COPIES
    n = max(1, free_memory(str(rows.device)).n_bytes // 4 // of_one)
    return (items[start : start + n] for start in range(0, len(items), n))
