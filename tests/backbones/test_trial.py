from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.engines.engine import ENGINES, Forward
from featcache.backbones.engines.trial import (
    CompileError,
    settle_compiled,
)
from featcache.backbones.runner import BackboneRunner
from featcache.errors import FeatcacheError, UsageError
from tests.backbones.engine_subjects import SHAPE, Wide, make_runner


@pytest.fixture
def runner() -> BackboneRunner:
    return make_runner()


class Clock:
    """Tells the seconds that were spent on it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spending(self, seconds: float, forward: Forward) -> Forward:
        def run(batch: Tensor) -> Tensor:
            self.now += seconds
            return forward(batch)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What times a trial; it stands still but for what `on_clock` and `Offer` spend."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def on_clock(clock: Clock, runner: BackboneRunner, *, eager_s: float = 1.0) -> BackboneRunner:
    """Let each eager batch take so long; the module's `forward` alone takes no time."""

    def spend(*_: object) -> None:
        clock.now += eager_s

    runner.module.register_forward_pre_hook(spend)
    return runner


class Offer:
    """An engine whose batches take so long, and its compile; `built` is what runs then."""

    def __init__(
        self, clock: Clock, *, batch_s: float, compile_s: float = 3.0, forward: Any = None
    ) -> None:
        self.clock, self.batch_s, self.compile_s = clock, batch_s, compile_s
        self.forward = forward
        self.built: Forward | None = None

    def build(self, module: nn.Module, precision: str, example: Tensor) -> Forward:
        self.clock.now += self.compile_s
        if isinstance(self.forward, Exception):
            raise self.forward
        self.built = self.clock.spending(self.batch_s, self.forward or module.forward)
        return self.built

    def __call__(self, monkeypatch: pytest.MonkeyPatch, name: str, *, version: str | None) -> None:
        engine = dataclasses.replace(ENGINES[name], version=lambda: version, build=self.build)
        monkeypatch.setitem(ENGINES, name, engine)


@pytest.fixture
def settle(
    monkeypatch: pytest.MonkeyPatch, runner: BackboneRunner, clock: Clock
) -> Callable[..., Any]:
    """Settle where all engines of a CPU take so long, and give what `forward` gives."""
    on_clock(clock, runner)

    def make(
        *, compiled_s: float = 0.5, compile_s: float = 3.0, forward: Any = None, **options: Any
    ) -> tuple[Any, list[str]]:
        offer = Offer(clock, batch_s=compiled_s, compile_s=compile_s, forward=forward)
        for name in ("winograd", "inductor"):
            offer(monkeypatch, name, version=options.get("compiler", "cc 1"))
        told: list[str] = []
        choice = settle_compiled(
            options.get("runner", runner),
            image_shape=SHAPE,
            n_rows=options.get("n_rows", 4_000),
            asked=options.get("asked", "auto"),
            backbone="small",
            on_note=told.append,
        )
        return choice, told

    return make


def test_a_long_job_is_compiled_if_that_is_faster(
    settle: Callable[..., Any], runner: BackboneRunner
) -> None:
    choice, told = settle()

    assert choice.value == "cc 1"
    assert choice.why == "inductor: 2.00 times as fast as eager, 3 s to compile"
    assert told == [
        "about 1000 s of work: compiling may pay (inductor)",
        "compiling the backbone with inductor",
    ]
    assert runner.forward is not runner.eager
    assert runner.features(np.zeros((4, *SHAPE), np.uint8)).shape == (4, 8)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"n_rows": 400}, "100 s of work are too few to try inductor, for about 16 s"),
        ({"compiled_s": 0.95}, "1.05 times as fast as eager"),
        ({"compiler": None}, "no C++ compiler answers"),
        ({"forward": CompileError("g++ died")}, "g++ died"),
        ({"forward": lambda batch: batch.mean((2, 3)).repeat(1, 3)[:, :8]}, "features differ by"),
        ({"forward": lambda batch: torch.full((4, 8), torch.nan)}, "features differ by nan"),
        ({"asked": "never"}, "asked for"),
    ],
)
def test_else_the_backbone_stays_eager_and_says_why(
    settle: Callable[..., Any], runner: BackboneRunner, options: dict[str, Any], why: str
) -> None:
    choice, _ = settle(**options)

    assert choice.value is None
    assert why in choice.why
    assert runner.forward is runner.eager


def test_a_trial_that_gained_nothing_is_not_repeated_for_a_month(
    settle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = settle(compiled_s=0.95)
    again, told = settle(compiled_s=0.95)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600)
    later, _ = settle(compiled_s=0.95)

    assert first.why == later.why == "inductor: 1.05 times as fast as eager, 3 s to compile"
    assert again == (None, "inductor: 1.05 times when it was last tried")
    assert told == []


def test_what_a_compile_took_here_counts_more_than_the_table(
    settle: Callable[..., Any], clock: Clock
) -> None:
    """3 s here, where the table expects 10: then 100 s of work are enough."""
    before, _ = settle(n_rows=400)
    settle(n_rows=4_000)
    after, _ = settle(n_rows=400, runner=on_clock(clock, make_runner()))

    assert before.value is None
    assert after.value == "cc 1"


def test_inductor_is_not_tried_where_there_is_nothing_between_convolutions(
    settle: Callable[..., Any],
) -> None:
    plain = make_runner(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten()))

    choice, told = settle(runner=plain)

    assert choice == (None, "inductor gains nothing on convolutions and ReLU alone")
    assert told == []


@pytest.mark.parametrize(
    ("options", "kind", "why"),
    [
        ({"compiler": None}, CompileError, "met: no C++ compiler answers"),
        (
            {"forward": CompileError("g++ died")},
            CompileError,
            "met: The backbone failed to compile",
        ),
        ({"forward": lambda batch: torch.full((4, 8), torch.nan)}, CompileError, "differ by nan"),
        ({"asked": "winograd"}, UsageError, "used: Winograd's algorithm is for 3x3 convolutions"),
        ({"asked": "fused"}, UsageError, "used: fused is for backbones on a CUDA device."),
    ],
)
def test_an_engine_that_is_asked_for_and_cannot_be_had_is_refused(
    settle: Callable[..., Any],
    runner: BackboneRunner,
    options: dict[str, Any],
    kind: type[FeatcacheError],
    why: str,
) -> None:
    with pytest.raises(kind) as caught:
        settle(**{"asked": "inductor", **options})

    assert str(caught.value).startswith(f"--compile {options.get('asked', 'inductor')} cannot be ")
    assert why in str(caught.value)
    assert str(caught.value).endswith("Use --compile auto, which tries what there is, or never.")
    assert caught.value.exit_code == (2 if kind is UsageError else 16)
    assert runner.forward is runner.eager


def test_an_engine_that_is_asked_for_needs_no_gain(settle: Callable[..., Any]) -> None:
    choice, _ = settle(asked="inductor", n_rows=1, compiled_s=2.0)

    assert choice.value == "cc 1"


@pytest.mark.parametrize(
    ("seconds", "kept", "told"),
    [
        ({"winograd": 0.5, "inductor": 0.25}, "inductor", "inductor: 4.00 times"),
        ({"winograd": 0.4, "inductor": 0.5}, "winograd", "inductor: 2.00 times"),
        ({"winograd": 0.5, "inductor": 0.47}, "winograd", "inductor: 2.13 times"),
        ({"winograd": 0.1}, "winograd", "100 s of work are too few to try inductor, for about"),
        ({"winograd": 2.0, "inductor": 2.0}, None, "inductor: 0.50 times"),
    ],
)
def test_the_faster_engine_is_kept(
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    seconds: dict[str, float],
    kept: str | None,
    told: str,
) -> None:
    runner = on_clock(clock, make_runner(Wide()))
    offers = {n: Offer(clock, batch_s=seconds.get(n, 1.0)) for n in ("winograd", "inductor")}
    for name, offer in offers.items():
        offer(monkeypatch, name, version=name)

    choice = settle_compiled(
        runner,
        image_shape=SHAPE,
        n_rows=4_000,
        asked="auto",
        backbone="wide",
        on_note=lambda _: None,
    )

    assert choice.value == kept
    assert choice.why.startswith("winograd: ")
    assert told in choice.why
    assert runner.forward is (offers[kept].built if kept else runner.eager)


def test_an_engine_that_gives_other_bits_each_time_is_declined(
    settle: Callable[..., Any], runner: BackboneRunner
) -> None:
    calls: list[int] = []

    def forward(batch: Tensor) -> Tensor:
        calls.append(1)
        features: Tensor = runner.module.forward(batch)
        return features + 1e-7 * len(calls)

    choice, _ = settle(forward=forward)

    assert choice.value is None
    assert "gives other features of the same images each time" in choice.why
