"""What a solver is: something that fits a head to rows at once, without epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from featcache.config import SolverSpec
from featcache.training.solvers.rows import SolverRows
from featcache.training.solvers.steps import OnStep


class Fit(Protocol):
    """A head as a solver found it."""

    @property
    def found(self) -> Mapping[str, Any]:
        """What was found beside weights, as a head keeps it."""

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Compute (B, K) float64 logarithms of probabilities from (B, D) treated features."""

    def state(self, treatment: nn.Sequential) -> dict[str, Tensor]:
        """Give the tensors of the head."""


class Solver(Protocol):
    """One way to find a head; each is a file, with an entry in `table.py`."""

    needs_every_class: bool
    """Whether it can fit no class that has no training row."""
    has_scores: bool
    """Whether its scores are no probabilities before a temperature is fitted."""

    def fit(
        self, rows: SolverRows, spec: SolverSpec, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[Fit]:
        """Fit to N treated rows: a fit for each value to choose from, ascending.

        Raises:
            UsageError: If the rows do not allow it.
        """

    def finish(
        self, fits: Sequence[Fit], rows: SolverRows, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[Fit]:
        """Make of what was fitted to choose by what is kept: more exactly, or on more rows."""
