"""The k nearest training rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from featcache.config import SolverSpec
from featcache.config.solver_specs import OPTIONS_OF_SOLVER
from featcache.errors import UsageError
from featcache.heads.neighbours import log_votes, nearest
from featcache.training.solvers.rows import SolverRows
from featcache.training.solvers.solver import Fit
from featcache.training.solvers.steps import OnStep


class _Search:
    """The nearest rows of what was asked last: one search serves all k."""

    def __init__(self, rows: SolverRows, most: int) -> None:
        self.rows, self.labels, self.most = rows, rows.labels, most
        self._asked: Tensor | None = None
        self._found: tuple[Tensor, Tensor] | None = None

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if self._found is None or self._asked is not features:
            self._found = nearest(features, self._references, self.most)
            self._asked = features
        return self._found

    def _references(self) -> Iterator[tuple[Tensor, Tensor]]:
        for part, chunk in self.rows.chunks():
            yield chunk, self.labels[part]


@dataclass(frozen=True, eq=False)
class NeighbourFit:
    """The votes of the k nearest rows.

    Attributes:
        k: How many vote.
        temperature: Of their votes.
        n_classes: K.
        search: Finds them.
    """

    k: int
    temperature: float
    n_classes: int
    search: _Search

    @property
    def found(self) -> Mapping[str, Any]:
        """The k that was chosen."""
        return {"k": self.k}

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Compute the logarithms of the shares of votes, (B, K) float64."""
        return log_votes(
            *self.search(features),
            k=self.k,
            temperature=self.temperature,
            n_classes=self.n_classes,
        )

    def state(self, treatment: nn.Sequential) -> dict[str, Tensor]:
        """Give the tensors of the treatment: the rows stay in their cache."""
        return dict(treatment.state_dict())


def with_possible_k(spec: SolverSpec, n_rows: int) -> SolverSpec:
    """Leave out what the usual k ask for above the number of training rows.

    Args:
        spec: Any solver's.
        n_rows: How many there are.

    Raises:
        UsageError: If a k that was asked for is above it.
    """
    if not spec.k or max(spec.k) <= n_rows:
        return spec
    if spec.k != OPTIONS_OF_SOLVER["knn"]["k"]:
        raise UsageError(
            f"--k {max(spec.k)} asks for more neighbours than there are training rows "
            f"({n_rows}). Nothing was fitted. Give at most {n_rows}."
        )
    return replace(spec, k=tuple(k for k in spec.k if k <= n_rows) or (n_rows,))


class NearestNeighbours:
    """The k with the lowest validation loss of those that were given."""

    needs_every_class = False
    has_scores = False

    def fit(
        self, rows: SolverRows, spec: SolverSpec, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[NeighbourFit]:
        """Keep the rows; there is a fit for each k."""
        assert spec.temperature is not None, "settled before"
        values = with_possible_k(spec, len(rows)).k
        assert values is not None, "settled before"
        search = _Search(rows, max(values))
        return [NeighbourFit(k, spec.temperature, n_classes, search) for k in values]

    def finish(
        self, fits: Sequence[Fit], rows: SolverRows, *, n_classes: int, on_step: OnStep | None
    ) -> Sequence[Fit]:
        """Keep what was chosen: neighbours are the training rows."""
        return fits
