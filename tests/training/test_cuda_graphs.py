from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import featcache
from featcache.config import HeadSpec
from featcache.errors import DeviceError
from featcache.heads.head_file import load_head
from featcache.training import module
from featcache.training.cuda_graphs import Call, ReplayedStep, replayed_step
from featcache.training.sweeps import head_bank
from featcache.training.sweeps.head_bank import HeadBank, Member, MemberState

N_STEPS, N_FULL, BATCH_SIZE = 12, 9, 8


class Tape(TorchDispatchMode):
    """Notes what torch does below autograd, and does it again with the very same tensors.

    As in a CUDA graph, Python has its say once: a number that it computed, a branch that it took
    and a tensor that it made stay as they were; nothing may be asked of a tensor's value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        given = func(*args, **(kwargs or {}))
        self.notes.append((func, args, kwargs or {}, given))
        return given

    @torch.no_grad()
    def play(self) -> None:
        for func, args, kwargs, given in self.notes:
            again = func(*args, **kwargs)
            for place, tensor in zip(tree_leaves(given), tree_leaves(again), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != tensor.data_ptr():
                    place.detach().copy_(tensor)  # else it is a view, or was changed in place


def taped(call: Call, *_: object) -> Call:
    """Record on any device."""
    tape = Tape()
    with tape:
        given = call()

    def again() -> Tensor:
        tape.play()
        return given

    return again


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
        """Train on batches of which some are short."""
        generator = torch.Generator().manual_seed(2)
        found = []
        for i in range(N_STEPS):
            n = 3 if i % 5 == 4 or i == 11 else BATCH_SIZE
            features = torch.randn(n, 6, generator=generator)
            labels = torch.randint(0, 3, (n,), generator=generator)
            found.append(run(features, labels))  # kept: each must be the caller's own
        return torch.stack(found).tolist()


@pytest.fixture(autouse=True)
def own_random_numbers() -> object:
    with torch.random.fork_rng():
        yield


def test_a_step_is_replayed_but_for_batches_of_another_size() -> None:
    expected, called = Trained(), list[torch.Size]()
    wanted = expected.losses(expected.step)
    trained = Trained()
    replayed = ReplayedStep(trained.adam, record=taped)

    def step(features: Tensor, labels: Tensor) -> Tensor:
        called.append(features.shape)
        return trained.step(features, labels)

    found = trained.losses(lambda *batch: replayed(step, *batch))

    assert found == wanted
    whole, short = torch.Size([BATCH_SIZE, 6]), torch.Size([3, 6])
    # Three before, one to compare with, and one that is recorded.
    assert called == [*[whole] * 5, *[short] * (N_STEPS - N_FULL)]
    for mine, theirs in zip(trained.state(), expected.state(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_python_does_in_a_step_beside_torch_is_found_out() -> None:
    trained = Trained()
    replayed = ReplayedStep(trained.adam, record=taped)
    factors = iter(range(1, 100))

    def step(features: Tensor, labels: Tensor) -> Tensor:
        return trained.step(features * next(factors), labels)

    with pytest.raises(DeviceError, match="gave other numbers when it was replayed"):
        trained.losses(lambda *batch: replayed(step, *batch))


def scale_weights(trained: Trained) -> None:
    with torch.no_grad():
        trained.head[0].weight.mul_(1.01)


def forget_a_step(trained: Trained) -> None:
    next(iter(trained.adam.state.values()))["step"].sub_(1)


@pytest.mark.parametrize("spoil", [scale_weights, forget_a_step])
def test_a_replay_that_gives_other_numbers_is_an_error(spoil: Callable[[Trained], None]) -> None:
    trained = Trained()

    def record(call: Call, *_: object) -> Call:
        again = taped(call)

        def spoilt() -> Tensor:
            losses = again()
            spoil(trained)
            return losses

        return spoilt

    replayed = ReplayedStep(trained.adam, record=record)

    with pytest.raises(DeviceError, match="gave other numbers when it was replayed"):
        trained.losses(lambda *batch: replayed(trained.step, *batch))


def test_a_step_that_cannot_be_recorded_is_an_error() -> None:
    trained = Trained()
    replayed = ReplayedStep(trained.adam, record=taped)

    def step(features: Tensor, labels: Tensor) -> Tensor:
        loss = trained.step(features, labels)
        assert float(loss) > 0  # which waits for the device
        return loss

    with pytest.raises(DeviceError, match=r"not permitted .* with FEATCACHE_CUDA_GRAPHS=0"):
        trained.losses(lambda *batch: replayed(step, *batch))


def test_adam_may_be_captured_only_while_it_is() -> None:
    seen: list[Any] = []
    trained = Trained()
    replayed = ReplayedStep(trained.adam, record=taped)

    def step(features: Tensor, labels: Tensor) -> Tensor:
        seen.append(trained.adam.param_groups[0]["capturable"])
        return trained.step(features, labels)

    trained.losses(lambda *batch: replayed(step, *batch))

    assert seen[:5] == [False, False, False, False, True]
    assert not any(seen[5:])


@pytest.mark.parametrize(
    ("device", "switch", "is_replayed"),
    [("cpu", "1", False), ("cuda", "0", False), ("cuda", "", True), ("cuda", "1", True)],
)
def test_steps_are_replayed_on_cuda_unless_that_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, device: str, switch: str, is_replayed: bool
) -> None:
    monkeypatch.setenv("FEATCACHE_CUDA_GRAPHS", switch)

    step = replayed_step(Trained().adam, device=torch.device(device))

    assert (step is not None) == is_replayed


@pytest.mark.parametrize(("n_inputs", "is_replayed"), [(11_180, True), (11_190, False)])
def test_steps_that_move_128_mib_of_weights_and_moments_run_as_they_are(
    n_inputs: int, is_replayed: bool
) -> None:
    sgd = torch.optim.SGD(nn.Linear(n_inputs, 1000, bias=False, device="meta").parameters())

    step = replayed_step(sgd, device=torch.device("cuda"))

    assert (step is not None) == is_replayed


def test_a_bank_is_gone_as_soon_as_nobody_has_it() -> None:
    members = [Member("a", HeadSpec(hidden=(4,)), 1e-2, 0)]
    states = [MemberState.initial(m, n_features=6, n_classes=3) for m in members]
    bank = HeadBank(members, states, device=torch.device("cpu"))
    bank.step(torch.ones(2, 6), torch.zeros(2, dtype=torch.int64))
    weak = weakref.ref(bank)
    gc.disable()
    try:
        del bank
        assert weak() is None
    finally:
        gc.enable()


def replaying(made: list[ReplayedStep]) -> Callable[..., ReplayedStep]:
    """A `replayed_step` for any device."""

    def replayed_step(optimizer: Any, *, device: object, generators: Any = ()) -> ReplayedStep:
        made.append(ReplayedStep(optimizer, generators=generators, record=taped))
        return made[-1]

    return replayed_step


def test_a_head_with_replayed_steps_is_the_same(
    cache: featcache.Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {"reg": "dropout", "hidden": (8,), "dropout": (0.5,), "max_epochs": 2}
    options |= {"batch_size": 16}
    expected = featcache.train_head(cache.path, **options, runs_dir=tmp_path / "as ever")
    made: list[ReplayedStep] = []
    # A tape stands for the graph that only a GPU records.
    monkeypatch.setattr(module, "replayed_step", replaying(made))

    found = featcache.train_head(cache.path, **options, runs_dir=tmp_path / "replayed")

    assert [step._replay is not None for step in made] == [True]
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
    monkeypatch.setattr(head_bank, "replayed_step", replaying(made))

    found, found_states = train()

    assert [step._replay is not None for step in made] == [True]
    assert found == expected
    for mine, theirs in zip(found_states, states, strict=True):
        assert mine.n_steps == theirs.n_steps == 12
        for a, b in zip(mine.parameters, theirs.parameters, strict=True):
            assert torch.equal(a, b)
