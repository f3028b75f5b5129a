"""A head without weights: the rows that are nearest to a row vote for their classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

References = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives (R, D) treated rows and their (R,) int64 labels, in portions, each time from the first."""


def nearest(queries: Tensor, references: References, k: int) -> tuple[Tensor, Tensor]:
    """Find the k nearest of all references to each query, the nearest first.

    The similarity is x r' - |r|^2 / 2, which orders as the Euclidean distance does. Of rows of
    length 1 it is their cosine, less 1/2.

    Args:
        queries: (B, D) treated rows.
        references: At least k rows.
        k: How many.

    Returns:
        (B, k) similarities and (B, k) int64 labels.
    """
    best = queries.new_zeros(len(queries), 0)
    owners = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    for rows, labels in references():
        similarities = queries @ rows.T
        similarities -= rows.square().sum(1) / 2
        found, places = similarities.topk(min(k, len(rows)), dim=1)
        best, owners = torch.cat([best, found], 1), torch.cat([owners, labels[places]], 1)
        best, places = best.topk(min(k, best.shape[1]), dim=1)
        owners = owners.gather(1, places)
    return best, owners


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
