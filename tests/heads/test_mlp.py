from __future__ import annotations

import pytest
import torch
from torch import nn

from featcache.config import HeadSpec, TrainSpec
from featcache.errors import UsageError
from featcache.heads.mlp import build_head, l1_norm


def test_the_default_head_is_the_notebooks() -> None:
    head = build_head(HeadSpec(), n_features=25088, n_classes=10, seed=0)

    assert str(head) == str(
        nn.Sequential(
            nn.Linear(25088, 50), nn.ReLU(), nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 10)
        )
    )


def test_dropout_stands_after_each_relu() -> None:
    head = build_head(HeadSpec(reg="dropout"), n_features=7, n_classes=2, seed=0)

    assert [type(layer) for layer in head[:3]] == [nn.Linear, nn.ReLU, nn.Dropout]
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.5, 0.3]


def test_no_hidden_layer_is_a_linear_probe() -> None:
    head = build_head(HeadSpec(hidden=()), n_features=7, n_classes=2, seed=0)

    assert str(head) == str(nn.Sequential(nn.Linear(7, 2)))


def test_initial_weights_are_torchs_own_for_the_seed_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(3)
    expected = nn.Linear(7, 2).weight
    torch.manual_seed(11)
    before = torch.random.get_rng_state()

    head = build_head(HeadSpec(hidden=()), n_features=7, n_classes=2, seed=3)

    assert torch.equal(head[0].weight, expected)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_l1_norm_counts_biases() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0, 2.0]]))
        layer.bias.fill_(-4.0)

    assert l1_norm(layer.parameters()).item() == 7.0


@pytest.mark.parametrize(
    ("reg", "l1", "weight_decay", "dropout"),
    [
        ("none", 0.0, 0.0, ()),
        ("l1", 1e-5, 0.0, ()),
        ("l2", 0.0, 1e-4, ()),
        ("l1l2", 1e-5, 1e-4, ()),
        ("dropout", 0.0, 0.0, (0.5, 0.3)),
    ],
)
def test_each_regularisation_brings_the_notebooks_constants(
    reg: str, l1: float, weight_decay: float, dropout: tuple[float, ...]
) -> None:
    spec = HeadSpec(reg=reg)

    assert (spec.l1, spec.weight_decay, spec.dropout) == (l1, weight_decay, dropout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reg": "l3"}, "--reg is 'l3', but must be one of none, l1, l2, l1l2, dropout. Did you"),
        ({"l1": 1e-3}, "--l1 0.001 does nothing with --reg none.*Use --reg l1 or l1l2"),
        ({"reg": "l1", "weight_decay": 1e-3}, "--weight-decay 0.001 does nothing with --reg l1"),
        ({"reg": "l2", "dropout": (0.5, 0.3)}, "--dropout 0.5,0.3 does nothing with --reg l2"),
        ({"reg": "l1", "l1": 0.0}, "--l1 is 0, but must be a finite number above 0"),
        ({"reg": "l1", "l1": float("nan")}, "--l1 is nan"),
        ({"reg": "dropout", "dropout": (0.5,)}, r"has 1 probability \(0.5\), but --hidden has 2"),
        ({"reg": "dropout", "hidden": ()}, "--reg dropout zeroes hidden units, but a linear probe"),
        ({"reg": "dropout", "dropout": (0.5, 1.0)}, "--dropout has 1, but must be at least 0 and"),
        ({"hidden": (50, 0)}, "--hidden is 0, but must be at least 1"),
    ],
)
def test_heads_that_contradict_themselves_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        HeadSpec(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "--lr is 0, but must be a finite number above 0"),
        ({"lr": -1e-3}, "--lr is -0.001"),
        ({"lr": float("inf")}, "--lr is inf"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"max_epochs": 0}, "--max-epochs is 0"),
        ({"patience": -1}, "--patience is -1"),
        ({"val_fraction": -0.1}, "--val-fraction is -0.1, but must be at least 0 and below 1"),
        ({"val_fraction": 1.0}, "--val-fraction is 1, "),
        ({"select": "bets"}, "--select is 'bets'.*Did you mean 'best'"),
    ],
)
def test_training_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainSpec(**options)  # type: ignore[arg-type]
