"""What the training of a head minimises: cross-entropy, weighted by class, with smoothed labels.

Each row counts with the weight of its label's class, and a step takes the mean over its rows. So
the mean over all steps of an epoch is the weighted loss of all training rows. (torch's own `weight`
divides by the weights of a batch. A batch that happens to lack the rare class would then count as
much as one that has it, and the classes would not be balanced.)

Only training looks at these. Validation and test report the plain cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from featcache.config import TrainSpec


@dataclass(frozen=True, eq=False)
class TrainingLoss:
    """Cross-entropy as a head is trained with it.

    Attributes:
        label_smoothing: Share of each label that is spread evenly over all K classes.
        class_weights: (K,) float32, by class; None weighs all rows alike.
    """

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    @classmethod
    def of(cls, train: TrainSpec, labels: Tensor, *, n_classes: int) -> TrainingLoss:
        """Make the loss that a training asks for.

        Args:
            train: The training.
            labels: (N,) int64, of its rows.
            n_classes: K.

        Returns:
            It, on the device of the labels.
        """
        is_balanced = train.class_weight == "balanced"
        weights = balanced_weights(labels, n_classes) if is_balanced else None
        return cls(train.label_smoothing, weights)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss of a batch from (B, K) logits and (B,) labels."""
        if self.class_weights is None:
            return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        of_rows = cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.label_smoothing
        )
        return (of_rows * self.class_weights[labels]).mean()


def balanced_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Weigh classes so that each counts the same in sum: N / (classes that occur * rows of it).

    The mean weight of a row is 1. This is scikit-learn's class_weight="balanced" (King and Zeng,
    Logistic Regression in Rare Events Data, 2001).

    Args:
        labels: (N,) int64, at least one.
        n_classes: K.

    Returns:
        (K,) float32; 0 for a class that does not occur.
    """
    counts = torch.bincount(labels, minlength=n_classes).double()
    n_present = int((counts > 0).sum())
    weights = len(labels) / (n_present * counts)
    return torch.where(counts > 0, weights, 0.0).float()
