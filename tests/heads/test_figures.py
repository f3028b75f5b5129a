"""Loss and accuracy are those of their formulas, however a split is summed up."""

from __future__ import annotations

import pytest
import torch

from featcache.heads.figures import (
    Figures,
    MeansOfBatches,
    SumsOfBatches,
    SumsOfHeads,
    batch_means,
    measure,
)

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def batches() -> Batches:
    """101 rows in batches of 16, the last one short."""
    generator = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(101, 5, generator=generator)
    labels = torch.randint(0, 5, (101,), generator=generator)
    return list(zip(features.split(16), labels.split(16), strict=True))


def by_formula(batches: Batches, *, factor: float) -> Figures:
    logits = factor * torch.cat([features for features, _ in batches]).double()
    labels = torch.cat([labels for _, labels in batches])
    losses = logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]
    right = (logits.argmax(1) == labels).double()
    return Figures(float(losses.mean()), float(right.mean()))


@pytest.mark.parametrize("sums", [MeansOfBatches, SumsOfBatches])
def test_a_head_alone_has_the_figures_of_the_formula(
    sums: type[MeansOfBatches | SumsOfBatches], batches: Batches
) -> None:
    found = sums()

    measure(batches, (lambda features: 2 * features, found))

    assert found.figures == pytest.approx(by_formula(batches, factor=2), rel=1e-6)


def test_heads_side_by_side_have_each_its_own_figures(batches: Batches) -> None:
    found = SumsOfHeads(2)

    measure(batches, (lambda features: torch.stack([features.t(), -features.t()]), found))

    for figures, factor in zip(found.figures, (1, -1), strict=True):
        assert figures == pytest.approx(by_formula(batches, factor=factor), rel=1e-6)


def test_the_last_digits_of_figures_on_disk_come_again(batches: Batches) -> None:
    """Each sum as it was written where it stood before, in its own types."""
    mean_loss, mean_acc = torch.zeros(()), torch.zeros(())
    sum_loss, n_right = 0.0, 0
    bank_loss, bank_right = torch.zeros(1, dtype=torch.float64), torch.zeros(1)
    for logits, labels in batches:
        loss, acc = batch_means(logits, labels)
        mean_loss, mean_acc = mean_loss + loss * len(labels), mean_acc + acc * len(labels)
        sum_loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        n_right += int((logits.argmax(1) == labels).sum())
        one, target = logits.t()[None], labels[None]
        each = torch.nn.functional.cross_entropy(one, target, reduction="none")
        bank_loss += each.sum(1).double()
        bank_right += (one.argmax(1) == target).sum(1)
    alone, later, side_by_side = MeansOfBatches(), SumsOfBatches(), SumsOfHeads(1)

    same = (lambda features: features, alone), (lambda features: features, later)
    measure(batches, *same, (lambda features: features.t()[None], side_by_side))

    assert alone.figures == (float(mean_loss / 101), float(mean_acc / 101))
    assert later.figures == (sum_loss / 101, n_right / 101)
    assert side_by_side.figures == [(float(bank_loss[0] / 101), float(bank_right[0] / 101))]
