"""How good a head is on some rows: loss and accuracy, for training, test and sweep alike.

Three ways to sum up a split differ in the last digit only. Each stays as it is: a head that is
trained again has the figures that its run was given before.

- `MeansOfBatches`: a head that is trained alone, as Lightning sums what a module logs.
- `SumsOfBatches`: a head that a sweep left untested, tested later.
- `SumsOfHeads`: the validation of heads side by side.

The figures of `evaluate` come from one float64 number a row instead (heads/predictions.py), since
its intervals draw rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from featcache.core.stopping import stop_if_asked

if TYPE_CHECKING:
    from featcache.features.batches import FeatureBatch
    from featcache.features.datamodule import FeatureDataModule

Head = Callable[[Tensor], Tensor]
"""(B, D) features to logits."""
Taker = Callable[[Tensor, Tensor], None]
"""Given the logits and the (B,) labels of each batch."""


class Figures(NamedTuple):
    """Figures of a head on some rows.

    Attributes:
        loss: Mean cross-entropy, without the L1 penalty as in the notebook.
        acc: Share of the rows that are right.
    """

    loss: float
    acc: float


def measure(batches: Iterable[FeatureBatch], *heads: tuple[Head, Taker]) -> None:
    """Give each batch to each head, and its logits to what sums them up."""
    with torch.inference_mode():
        for features, labels in batches:
            stop_if_asked()
            for head, take in heads:
                take(head(features), labels)


def figures_on_test(
    head: nn.Module,
    batches: FeatureDataModule,
    sums: MeansOfBatches | SumsOfBatches,
    *,
    device: torch.device,
) -> Figures:
    """Test a head on the split "test".

    Args:
        head: (B, D) to (B, C); it is moved to the device, and into evaluation mode.
        batches: The features.
        sums: How batches are summed up.
        device: Where to test.
    """
    batches.load("test", device)
    measure(batches.test_dataloader(), (head.to(device).eval(), sums))
    return sums.figures


def batch_means(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean cross-entropy and accuracy of one batch, float32, from (B, C) and (B,)."""
    return cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()


class MeansOfBatches:
    """Float32 means of batches, weighted by their rows, as Lightning's `log(on_epoch=True)`."""

    def __init__(self) -> None:
        self._loss, self._acc = torch.zeros(()), torch.zeros(())
        self._n = 0

    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: (B, C) and (B,)."""
        loss, acc = batch_means(logits, labels)
        self._loss = self._loss + loss.cpu() * len(labels)
        self._acc = self._acc + acc.cpu() * len(labels)
        self._n += len(labels)

    @property
    def figures(self) -> Figures:
        """The figures of all rows so far."""
        return Figures(float(self._loss / self._n), float(self._acc / self._n))


class SumsOfBatches:
    """Float32 sums of batches, added up in float64; right rows are counted."""

    def __init__(self) -> None:
        self._loss, self._n_right, self._n = 0.0, 0, 0

    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: (B, C) and (B,)."""
        self._loss += float(cross_entropy(logits, labels, reduction="sum"))
        self._n_right += int((logits.argmax(1) == labels).sum())
        self._n += len(labels)

    @property
    def figures(self) -> Figures:
        """The figures of all rows so far."""
        return Figures(self._loss / self._n, self._n_right / self._n)


class SumsOfHeads:
    """As `SumsOfBatches`, for K heads at once; the accuracy is rounded to float32."""

    def __init__(self, n_heads: int) -> None:
        self._loss = torch.zeros(n_heads, dtype=torch.float64)
        self._n_right = torch.zeros(n_heads)
        self._n = 0

    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: (K, C, B) and (B,)."""
        target = labels.expand(len(logits), -1)
        each = cross_entropy(logits, target, reduction="none")
        self._loss += each.sum(1).double().cpu()
        self._n_right += (logits.argmax(1) == target).sum(1).cpu()
        self._n += len(labels)

    @property
    def figures(self) -> list[Figures]:
        """The figures of each head, of all rows so far."""
        losses, accs = (self._loss / self._n).tolist(), (self._n_right / self._n).tolist()
        return [Figures(*pair) for pair in zip(losses, accs, strict=True)]
