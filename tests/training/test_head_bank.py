"""Heads side by side are the heads that are trained alone."""

from __future__ import annotations

import pytest
import torch

from featcache.config import REGULARISATIONS, HeadSpec, TrainSpec
from featcache.features.order import stream_seed
from featcache.heads.mlp import build_head, l1_norm
from featcache.training.loss import TrainingLoss
from featcache.training.sweeps.head_bank import HeadBank, Member, MemberState

N_FEATURES, N_CLASSES, BATCH_SIZE = 24, 5, 16
CPU = torch.device("cpu")


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, N_FEATURES, generator=generator)  # the last batch is a short one
    return features, torch.randint(0, N_CLASSES, (100,), generator=generator)


def new_bank(members: list[Member], loss: TrainingLoss | None = None) -> HeadBank:
    states = [MemberState.initial(m, n_features=N_FEATURES, n_classes=N_CLASSES) for m in members]
    return HeadBank(members, states, device=CPU, loss=loss)


def train(bank: HeadBank, rows: tuple[torch.Tensor, torch.Tensor], epochs: range) -> torch.Tensor:
    losses: list[torch.Tensor] = []
    for epoch in epochs:
        bank.set_epoch(epoch)
        parts = torch.arange(len(rows[0])).split(BATCH_SIZE)
        losses += [bank.step(rows[0][part], rows[1][part]) for part in parts]
    return torch.stack(losses)


def train_alone(
    member: Member,
    rows: tuple[torch.Tensor, torch.Tensor],
    loss_of: TrainingLoss = TrainingLoss(),  # noqa: B008 - the plain one, which never changes
) -> torch.Tensor:
    """Two epochs with autograd, `nn.Dropout` and torch's own Adam."""
    spec = member.spec
    head = build_head(spec, n_features=N_FEATURES, n_classes=N_CLASSES, seed=member.seed)
    adam = torch.optim.Adam(head.parameters(), lr=member.lr, weight_decay=spec.weight_decay or 0)
    losses = []
    for epoch in range(2):
        torch.manual_seed(stream_seed("dropout", member.seed, epoch))
        for part in torch.arange(len(rows[0])).split(BATCH_SIZE):
            adam.zero_grad()
            loss = loss_of(head(rows[0][part]), rows[1][part])
            if spec.l1:
                loss = loss + spec.l1 * l1_norm(head.parameters())
            loss.backward()
            adam.step()
            losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("hidden", [(), (7,), (9, 6), (8, 7, 6)])
def test_each_head_has_the_losses_of_one_trained_alone(
    rows: tuple[torch.Tensor, torch.Tensor], hidden: tuple[int, ...]
) -> None:
    # Factors so large that a head without them, or with another's, shows.
    factors = {"l1": {"l1": 1e-2}, "l2": {"weight_decay": 0.1}}
    factors["l1l2"] = factors["l1"] | factors["l2"]
    # No dropout at all in the first of several layers, which draws nothing.
    factors["dropout"] = {"dropout": (0.4, 0.0, 0.3)[-len(hidden) :] if hidden else ()}
    specs = [
        HeadSpec(reg=reg, hidden=hidden, **factors.get(reg, {}))
        for reg in REGULARISATIONS
        if hidden or reg != "dropout"
    ]
    members = [
        Member(f"{spec.reg} {lr} {seed}", spec, lr, seed)
        for spec in specs
        for lr in (1e-3, 1e-1)
        for seed in (0, 3)
    ]
    bank = new_bank(members)

    losses = train(bank, rows, range(2))

    for k, member in enumerate(bank.members):
        torch.testing.assert_close(losses[:, k], train_alone(member, rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_each_head_minimises_the_loss_that_is_asked_for(
    rows: tuple[torch.Tensor, torch.Tensor], class_weight: str, label_smoothing: float
) -> None:
    train_spec = TrainSpec(class_weight=class_weight, label_smoothing=label_smoothing)
    rows = rows[0], (rows[1] * rows[1]) // 4  # classes of very different sizes
    loss = TrainingLoss.of(train_spec, rows[1], n_classes=N_CLASSES)
    regs = ("none", "l1l2", "dropout")
    members = [Member(reg, HeadSpec(reg=reg, hidden=(9, 6)), 1e-1, 0) for reg in regs]
    bank = new_bank(members, loss)

    losses = train(bank, rows, range(2))

    for k, member in enumerate(bank.members):
        alone = train_alone(member, rows, loss)
        torch.testing.assert_close(losses[:, k], alone, rtol=1e-5, atol=1e-6)


def test_heads_taken_out_and_put_together_again_go_on_as_before(
    rows: tuple[torch.Tensor, torch.Tensor],
) -> None:
    members = [
        Member(f"{i}", HeadSpec(reg="dropout", hidden=(9, 6)), 10.0**-i, i) for i in range(1, 5)
    ]
    whole = new_bank(members)
    expected = train(whole, rows, range(2))
    first = new_bank(members)
    train(first, rows, range(1))

    kept = [(m, s) for m, s in first.states() if m.key != "2"]
    second = HeadBank([m for m, _ in kept], [s for _, s in kept], device=CPU)
    losses = train(second, rows, range(1, 2))

    n_steps = len(losses)
    of_kept = [whole.members.index(m) for m in second.members]
    torch.testing.assert_close(losses, expected[n_steps:, of_kept], rtol=1e-6, atol=0)


def test_logits_are_those_of_the_plain_head(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    members = [Member(f"{i}", HeadSpec(reg="dropout", hidden=(9, 6)), 1e-3, i) for i in range(3)]
    bank = new_bank(members)

    logits = bank.logits(rows[0])

    for k, member in enumerate(bank.members):
        head = build_head(
            member.spec, n_features=N_FEATURES, n_classes=N_CLASSES, seed=member.seed
        ).eval()
        torch.testing.assert_close(logits[k].t(), head(rows[0]))


def test_a_step_runs_where_only_deterministic_algorithms_are_allowed() -> None:
    member = Member("a", HeadSpec(hidden=(8,)), 1e-2, 0)
    features, labels = torch.randn(5, 12), torch.tensor([0, 2, 1, 1, 0])

    def losses() -> list[torch.Tensor]:
        state = MemberState.initial(member, n_features=12, n_classes=3)
        bank = HeadBank([member], [state], device=torch.device("cpu"))
        bank.set_epoch(0)
        with torch.no_grad():
            return [bank.step(features, labels) for _ in range(3)]

    expected = losses()
    torch.use_deterministic_algorithms(True)
    try:
        found = losses()
    finally:
        torch.use_deterministic_algorithms(False)

    assert all(map(torch.equal, found, expected))
