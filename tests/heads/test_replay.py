from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import featcache
from featcache.bank import HeadBank, Member, MemberState
from featcache.checkpoint import load_head
from featcache.replay import Record, ReplayedStep, Step
from featcache.specs import HeadSpec

N_STEPS, BATCH_SIZE = 12, 8


class Trained:
    """A small head with dropout in the middle of its training."""

    def __init__(self) -> None:
        torch.default_generator.manual_seed(0)
        self.head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
        self.adam = torch.optim.Adam(self.head.parameters(), lr=1e-2, fused=True)
        torch.default_generator.manual_seed(1)

    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        self.head.zero_grad()
        loss = nn.functional.cross_entropy(self.head(features), labels)
        loss.backward()
        self.adam.step()
        return loss.detach()

    def state(self) -> list[Tensor]:
        moments = [t for of_one in self.adam.state.values() for t in of_one.values()]
        return [*self.head.parameters(), *moments]

    def losses(self, run: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
        """Train on batches of which every fifth is short."""
        generator = torch.Generator().manual_seed(2)
        found = []
        for i in range(N_STEPS):
            n = BATCH_SIZE if i % 5 else 3
            features = torch.randn(n, 6, generator=generator)
            labels = torch.randint(0, 3, (n,), generator=generator)
            found.append(float(run(features, labels)))
        return found


@pytest.fixture(autouse=True)
def own_random_numbers() -> object:
    with torch.random.fork_rng():
        yield


def recorder(
    calls: list[torch.Size], *, spoil: Callable[[Trained], None] | None, trained: Trained
) -> Record:
    def record(step: Step, inputs: Sequence[Tensor], _: object) -> Step:
        def replay(features: Tensor, labels: Tensor) -> Tensor:
            calls.append(features.shape)
            losses = step(features, labels)
            if spoil:
                spoil(trained)
            return losses

        return replay

    return record


def test_a_step_that_is_right_is_replayed_but_for_other_shapes() -> None:
    expected, calls = Trained(), list[torch.Size]()
    wanted = expected.losses(expected.step)
    trained = Trained()
    record = recorder(calls, spoil=None, trained=trained)
    replayed = ReplayedStep(trained.step, trained.state, record=record)

    found = trained.losses(replayed)

    assert replayed.outcome == "replayed"
    assert found == wanted
    assert len(calls) > 4
    assert set(calls) == {torch.Size([BATCH_SIZE, 6])}
    for mine, theirs in zip(trained.state(), expected.state(), strict=True):
        assert torch.equal(mine, theirs)


def scale_weights(trained: Trained) -> None:
    with torch.no_grad():
        trained.head[0].weight.mul_(1.01)


def forget_a_step(trained: Trained) -> None:
    next(iter(trained.adam.state.values()))["step"].sub_(1)


def draw_once_more(trained: Trained) -> None:
    trained.head[0].bias.data.add_(torch.rand(5) * 1e-3)


@pytest.mark.parametrize("spoil", [scale_weights, forget_a_step, draw_once_more])
def test_a_replay_that_gives_other_numbers_is_not_used(spoil: Callable[[Trained], None]) -> None:
    expected, calls = Trained(), list[torch.Size]()
    wanted = expected.losses(expected.step)
    trained = Trained()
    record = recorder(calls, spoil=spoil, trained=trained)
    replayed = ReplayedStep(trained.step, trained.state, record=record)

    found = trained.losses(replayed)

    assert replayed.outcome == "replayed, it gave other numbers"
    assert found == wanted
    assert len(calls) == 1
    for mine, theirs in zip(trained.state(), expected.state(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_recording_that_fails_leaves_the_training_as_it_was() -> None:
    def record(*_: object) -> Step:
        raise RuntimeError("operation not permitted when stream is capturing")

    expected = Trained()
    wanted = expected.losses(expected.step)
    trained = Trained()
    replayed = ReplayedStep(trained.step, trained.state, record=record)

    found = trained.losses(replayed)

    assert "not permitted when stream is capturing" in replayed.outcome
    assert found == wanted
    for mine, theirs in zip(trained.state(), expected.state(), strict=True):
        assert torch.equal(mine, theirs)


def replaying(made: list[ReplayedStep]) -> Callable[..., Step]:
    """A `quick_step` that replays on any device, by running the step itself."""

    def quick_step(step: Step, state: Any, *, device: object, generators: Any = ()) -> Step:
        made.append(ReplayedStep(step, state, generators=generators, record=lambda step, *_: step))
        return made[-1]

    return quick_step


def test_a_head_with_replayed_steps_is_the_same(
    cache: featcache.Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {"reg": "dropout", "hidden": (8,), "dropout": (0.5,), "max_epochs": 2}
    expected = featcache.train_head(cache.path, **options, runs_dir=tmp_path / "as ever")
    made: list[ReplayedStep] = []
    monkeypatch.setattr("featcache.headmodule.quick_step", replaying(made))

    found = featcache.train_head(cache.path, **options, runs_dir=tmp_path / "replayed")

    assert [step.outcome for step in made] == ["replayed"]
    assert found.runs[0].history == expected.runs[0].history
    for name, tensor in load_head(expected.path).state.items():
        assert torch.equal(load_head(found.path).state[name], tensor)


def test_a_bank_with_replayed_steps_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [
        Member(f"{i}", HeadSpec(reg=reg, hidden=(9, 6)), 1e-2, i)
        for i, reg in enumerate(("none", "l1l2", "dropout", "dropout"))
    ]

    def train() -> tuple[list[list[float]], list[MemberState]]:
        states = [MemberState.initial(m, n_features=24, n_classes=5) for m in members]
        bank = HeadBank(members, states, device=torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        losses = []
        for step in range(12):
            if step % 6 == 0:
                bank.set_epoch(step // 6)
            n = 3 if step % 6 == 5 else 16
            features = torch.randn(n, 24, generator=generator)
            losses.append(bank.step(features, torch.arange(n) % 5).tolist())
        return losses, [state for _, state in bank.states()]

    expected, states = train()
    made: list[ReplayedStep] = []
    monkeypatch.setattr("featcache.bank.quick_step", replaying(made))

    found, found_states = train()

    assert [step.outcome for step in made] == ["replayed"]
    assert found == expected
    for mine, theirs in zip(found_states, states, strict=True):
        assert mine.n_steps == theirs.n_steps == 12
        for a, b in zip(mine.parameters, theirs.parameters, strict=True):
            assert torch.equal(a, b)
