"""A linear classifier, as every solver but the MLP and the neighbours finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from featcache.training.solvers.rows import SolverRows


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

    def scores(self, rows: SolverRows) -> Tensor:
        """Compute the (N, K) float64 scores of rows, which are treated already."""
        parts = [chunk @ self.weight.T + self.bias for _, chunk in rows.chunks(torch.float64)]
        return torch.cat(parts)

    def log_probabilities(self, rows: SolverRows) -> Tensor:
        """Compute the (N, K) float64 logarithms of the probabilities of rows."""
        return self.scores(rows).log_softmax(1)

    def divided(self, temperature: float) -> LinearFit:
        """Divide the scores by a temperature."""
        found = {**self.found, "temperature": temperature}
        return LinearFit(self.weight / temperature, self.bias / temperature, found)

    def with_found(self, **found: Any) -> LinearFit:
        """Add to what was found."""
        return replace(self, found={**self.found, **found})

    def state(self, treatment: nn.Sequential) -> dict[str, Tensor]:
        """Give the tensors of the head: those of its treatment, and float32 weight and bias."""
        own = {"weight": self.weight.float(), "bias": self.bias.float()}
        place = len(treatment)
        return {**treatment.state_dict(), **{f"{place}.{name}": t for name, t in own.items()}}
