"""A linear classifier, as every solver but the MLP and the neighbours finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from featcache.training.solvers.rows import SolverRows
from featcache.training.solvers.solver import Fit
from featcache.training.solvers.steps import OnStep


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Scores of K classes on treated features: x W' + b.

    Attributes:
        weight: (K, D) float64.
        bias: (K,) float64.
        found: What else was found: numbers by name, as a head keeps them.
    """

    weight: Tensor
    bias: Tensor
    found: Mapping[str, Any] = field(default_factory=dict)

    def scores(self, features: Tensor) -> Tensor:
        """Compute (B, K) float64 scores of (B, D) treated features."""
        return features.double() @ self.weight.T + self.bias

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Compute the logarithms of the softmax of the scores, (B, K) float64."""
        return self.scores(features).log_softmax(1)

    def divided(self, temperature: float) -> LinearFit:
        """Divide the scores by a temperature, and note it."""
        return LinearFit(self.weight / temperature, self.bias / temperature, self.found).with_found(
            temperature=temperature
        )

    def with_found(self, **found: Any) -> LinearFit:
        """Add to what was found."""
        return replace(self, found={**self.found, **found})

    def state(self, treatment: nn.Sequential) -> dict[str, Tensor]:
        """Give the tensors of the head: those of its treatment, and float32 weight and bias."""
        own = {"weight": self.weight.float(), "bias": self.bias.float()}
        place = len(treatment)
        return {**treatment.state_dict(), **{f"{place}.{name}": t for name, t in own.items()}}


class OneLinearFit:
    """What solvers share that fit once, with nothing to choose on validation rows."""

    def finish(
        self, fits: Sequence[Fit], rows: SolverRows, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[Fit]:
        """Keep what was fitted."""
        return fits
