"""A head without weights: the rows that are nearest to a row vote for their classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

References = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives (R, D) treated rows and their (R,) int64 labels, in portions, each time from the first."""

_MOST_SIMILARITIES = 16 << 20  # at a time: 64 MB of float32


Scores = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""Takes (R, D) references, and gives what scores them for (B, D) queries: (B, R)."""


def nearest(queries: Tensor, references: References, k: int) -> tuple[Tensor, Tensor]:
    """Find the k nearest of all references to each query, the nearest first.

    The similarity is x r' - |r|^2 / 2, which orders as the Euclidean distance does. x and r are
    taken from the first reference: far from the origin, float32 would lose what tells rows apart.
    Of equal similarities the earlier reference is nearer, whatever the portions are.

    Args:
        queries: (B, D) treated rows.
        references: At least k rows.
        k: How many.

    Returns:
        (B, k) similarities and (B, k) int64 labels. Of references of length 1 the similarity is the
        cosine, up to a number that all references of a query share.
    """
    origin: Tensor | None = None

    def scores(rows: Tensor) -> Callable[[Tensor], Tensor]:
        nonlocal origin
        start = rows[:1].clone() if origin is None else origin
        origin = start
        rows = rows - start
        half = rows.square().sum(1) / 2
        return lambda some: ((some - start) @ rows.T).sub_(half)

    return highest(queries, references, k, scores)


def highest(
    queries: Tensor, references: References, k: int, scores: Scores
) -> tuple[Tensor, Tensor]:
    """Find the k references of the highest score for each query, the highest first.

    Of equal scores the earlier reference goes first, whatever the portions are.

    Args:
        queries: (B, D) treated rows.
        references: At least k rows, with a number each.
        k: How many.
        scores: What is compared; for some queries at a time, so that the scores have room.

    Returns:
        (B, k) scores and (B, k) numbers.
    """
    best = queries.new_zeros(len(queries), 0)
    owners = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    for rows, numbers in references():
        score = scores(rows)
        step = max(1, _MOST_SIMILARITIES // len(rows))
        found = [_largest(score(some), k) for some in queries.split(step)]
        places = torch.cat([places for _, places in found])
        best = torch.cat([best, torch.cat([values for values, _ in found])], 1)
        owners = torch.cat([owners, numbers[places]], 1)
        best, places = _largest(best, k)
        owners = owners.gather(1, places)
    return best, owners


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest of each row and their places, or all; of equal ones the first."""
    k = min(k, values.shape[1])
    found, places = values.topk(k, dim=1)
    # What topk takes of those that are equal to the last is not defined.
    [torn] = ((values >= found[:, -1:]).sum(1) > k).nonzero(as_tuple=True)
    if len(torn):
        places[torn] = values[torn].sort(dim=1, descending=True, stable=True).indices[:, :k]
    places = places.sort(dim=1).values
    found, order = values.gather(1, places).sort(dim=1, descending=True, stable=True)
    return found, places.gather(1, order)


def log_votes(
    similarities: Tensor, labels: Tensor, *, k: int, temperature: float, n_classes: int
) -> Tensor:
    """Compute logarithms of the shares of votes, (B, K) float64.

    As in DINO: a neighbour of similarity s has a vote of softmax(s / temperature) among the k.
    Each class also gets 1/K of an average neighbour's vote, so that no share is 0.

    Args:
        similarities: (B, k or more), the largest first.
        labels: (B, k or more) their classes.
        k: How many of them vote.
        temperature: Above 0; the smaller, the more the nearest count.
        n_classes: K.
    """
    weights = (similarities[:, :k].double() / temperature).softmax(1)
    votes = weights.new_full((len(weights), n_classes), 1 / (k * n_classes))
    votes.scatter_add_(1, labels[:, :k], weights)
    return votes.log_() - math.log1p(1 / k)


class Neighbours(nn.Module):
    """Asks the rows of a cache: (B, D) features -> (B, K) logarithms of probabilities."""

    def __init__(
        self,
        treatment: nn.Module,
        references: References,
        *,
        k: int,
        temperature: float,
        n_classes: int,
    ) -> None:
        """Take the treatment, what gives rows that it was done to, and how they vote."""
        super().__init__()
        self.treatment = treatment
        self.references = references
        self.k = k
        self.temperature = temperature
        self.n_classes = n_classes

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, K) float32."""
        found = nearest(self.treatment(features), self.references, self.k)
        votes = log_votes(*found, k=self.k, temperature=self.temperature, n_classes=self.n_classes)
        return votes.float()
