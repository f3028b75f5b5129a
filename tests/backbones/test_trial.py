from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._inductor import codecache

import featcache
from featcache.backbones.engines import trial
from featcache.backbones.engines.code_folder import _random_folder, code_folder
from featcache.backbones.engines.engine import ENGINES, engine_of
from featcache.backbones.engines.fused import FusedConv2d
from featcache.backbones.engines.trial import (
    CompileError,
    compile_backbone,
    recompile,
    settle_compiled,
)
from featcache.backbones.engines.winograd import _build, source_digest
from featcache.backbones.runner import BackboneRunner
from featcache.core.preprocess import Preprocess
from featcache.core.tolerances import feature_tolerance
from featcache.errors import DeviceError, InterruptedRunError, MismatchError
from featcache.extraction.result import ExtractResult
from tests.extraction.test_extract import StopAfter
from tests.paces import small_blocks

Extract = Callable[..., ExtractResult]
SHAPE = (8, 8, 3)
needs_compiler = pytest.mark.skipif(ENGINES["inductor"].version() is None, reason="no C++ compiler")


class Small(nn.Module):
    """A convolution, BatchNorm and a mean."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 3)
            self.norm = nn.BatchNorm2d(8)

    def forward(self, batch: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(batch)).relu().mean((2, 3))
        return features


def make_runner(module: nn.Module | None = None, *, precision: str = "fp32") -> BackboneRunner:
    return BackboneRunner(
        (module or Small()).eval(),
        preprocess=Preprocess.notebook(16),
        device="cpu",
        precision=precision,
        batch_size=4,
    )


def say(monkeypatch: pytest.MonkeyPatch, version: Callable[[str], str | None]) -> None:
    """Let every engine be of this version."""
    for name, engine in ENGINES.items():
        named = dataclasses.replace(engine, version=functools.partial(version, name))
        monkeypatch.setitem(ENGINES, name, named)


@pytest.fixture
def runner() -> BackboneRunner:
    return make_runner()


@pytest.fixture
def settle(monkeypatch: pytest.MonkeyPatch, runner: BackboneRunner) -> Callable[..., Any]:
    """Settle with a compile that only replaces what runs, and with seconds as told."""

    def make(
        *, eager_s: float = 1.0, compiled_s: float = 0.5, forward: Any = None, **options: Any
    ) -> tuple[Any, list[str]]:
        def compile_backbone(runner: BackboneRunner, shape: Any, engine: str) -> None:
            if isinstance(forward, Exception):
                raise forward
            runner.forward = forward or runner.module.forward

        def timed(runner: BackboneRunner, images: Any) -> tuple[Any, float]:
            took = eager_s if runner.forward is runner.module else compiled_s
            return runner.features(images), took

        monkeypatch.setattr(trial, "compile_backbone", compile_backbone)
        monkeypatch.setattr(trial, "_timed", timed)
        compiler = options.get("compiler", "cc 1")
        say(monkeypatch, lambda _: compiler)
        asked_runner = make_runner(options["module"]) if "module" in options else runner
        told: list[str] = []
        choice = settle_compiled(
            asked_runner,
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
    assert choice.why == "inductor: 2.00 times as fast as eager, 0 s to compile"
    assert told == [
        "about 1000 s of work: compiling may pay (inductor)",
        "compiling the backbone with inductor",
    ]
    assert runner.forward is not runner.module


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
        ({"asked": "inductor", "compiler": None}, "no C++ compiler answers"),
    ],
)
def test_else_the_backbone_stays_eager_and_says_why(
    settle: Callable[..., Any], runner: BackboneRunner, options: dict[str, Any], why: str
) -> None:
    choice, _ = settle(**options)

    assert choice.value is None
    assert why in choice.why
    assert runner.forward is runner.module


def test_a_trial_that_gained_nothing_is_not_repeated_for_a_month(
    settle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = settle(compiled_s=0.95)
    again, told = settle(compiled_s=0.95)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600)
    later, _ = settle(compiled_s=0.95)

    assert first.why == later.why == "inductor: 1.05 times as fast as eager, 0 s to compile"
    assert again == (None, "inductor: 1.05 times when it was last tried")
    assert told == []


def test_what_a_compile_took_here_counts_more_than_the_table(settle: Callable[..., Any]) -> None:
    """0 s here, where the table expects 10: then 100 s of work are enough."""
    before, _ = settle(n_rows=400)
    settle(n_rows=4_000)
    after, _ = settle(n_rows=400)

    assert before.value is None
    assert after.value == "cc 1"


def test_inductor_is_not_tried_where_there_is_nothing_between_convolutions(
    settle: Callable[..., Any],
) -> None:
    choice, told = settle(module=nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten()))

    assert choice == (None, "inductor gains nothing on convolutions and ReLU alone")
    assert told == []


def test_an_engine_that_is_asked_for_needs_no_gain(settle: Callable[..., Any]) -> None:
    choice, _ = settle(asked="inductor", n_rows=1, compiled_s=2.0)

    assert choice.value == "cc 1"


class Wide(nn.Module):
    """A convolution for Winograd's algorithm between two that are not."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 8, 3)]
            self.layers = nn.Sequential(*layers, nn.BatchNorm2d(8))

    def forward(self, batch: Tensor) -> Tensor:
        features: Tensor = self.layers(batch).mean((2, 3))
        return features


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
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], kept: str | None, told: str
) -> None:
    runner = make_runner(Wide())
    running = {runner.module: "eager"}

    def compile_backbone(runner: BackboneRunner, shape: Any, engine: str) -> None:
        runner.forward = runner.module.forward if engine == "winograd" else Wide().eval().forward
        running[runner.forward] = engine

    took = {"eager": 1.0, **seconds}
    monkeypatch.setattr(trial, "compile_backbone", compile_backbone)

    def timed(runner: BackboneRunner, images: Any) -> tuple[Any, float]:
        return runner.features(images), took[running[runner.forward]]

    monkeypatch.setattr(trial, "_timed", timed)
    say(monkeypatch, lambda engine: engine)

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
    assert running[runner.forward] == (kept or "eager")


def test_a_backbone_without_such_convolutions_is_not_compiled_with_winograd(
    runner: BackboneRunner,
) -> None:
    with pytest.raises(CompileError, match=r"3x3 convolutions in fp32, .* this backbone has none"):
        compile_backbone(runner, SHAPE, "winograd")


class Alone(nn.Module):
    """A convolution for Winograd's algorithm, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(48, 32, 3, padding=1))

    def forward(self, batch: Tensor) -> Tensor:
        features: Tensor = self.layers(batch.repeat(1, 16, 1, 1)).mean((2, 3))
        return features


@needs_compiler
def test_winograd_computes_in_fp32_where_bf16_is_asked_for() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
    expected = make_runner(Alone()).features(images)
    runner = make_runner(Alone(), precision="bf16")
    eager = runner.features(images)

    compile_backbone(runner, SHAPE, "winograd")
    found = runner.features(images)

    assert np.abs(eager - expected).max() > 1e-4 * np.abs(expected).max()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("compiler", ["winograd 1a2b3c4d, g++ 1", "winograd, g++ 1", "winograd"])
def test_the_engine_is_what_a_compilers_name_begins_with(compiler: str) -> None:
    assert engine_of(compiler) == "winograd"


@needs_compiler
def test_the_source_of_winograd_is_part_of_the_numeric_class() -> None:
    here = ENGINES["winograd"].version()

    assert here is not None
    assert here.startswith(f"winograd {source_digest()}, ")


def test_an_engine_of_another_featcache_is_not_taken_for_one_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner, told = make_runner(Wide()), list[str]()
    say(monkeypatch, lambda engine: f"{engine}, cc 1")

    assert recompile(runner, SHAPE, "tvm, cc 1", told.append) is None
    assert runner.forward is runner.module
    assert told[-1] == "No engine 'tvm' is known here."


def test_a_compiler_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, told = make_runner(Wide()), list[str]()
    say(monkeypatch, lambda _: None)

    assert recompile(runner, SHAPE, "winograd, cc 1", told.append) is None
    assert "but no C++ compiler answers" in told[0]


def test_what_the_compiler_says_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\nprintf 'in f:\\nerror: bad -march\\n' >&2; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("featcache.backbones.engines.engine.cpp_compiler", lambda: str(script))
    runner = make_runner(Wide())

    with pytest.raises(CompileError, match="failed to compile: error: bad -march"):
        compile_backbone(runner, SHAPE, "winograd")
    assert runner.forward is runner.module


def test_whatever_breaks_a_compile_is_one_error(
    monkeypatch: pytest.MonkeyPatch, runner: BackboneRunner
) -> None:
    def broken(*args: object, **options: object) -> Any:
        return lambda batch: (_ for _ in ()).throw(OSError("cannot execute g++\nsecond line"))

    monkeypatch.setattr(torch, "compile", broken)

    with pytest.raises(CompileError, match=r"compile: cannot execute g\+\+$"):
        compile_backbone(runner, SHAPE, "inductor")
    assert runner.forward is runner.module


@needs_compiler
def test_a_compiled_backbone_gives_the_same_features(runner: BackboneRunner) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, *SHAPE), np.uint8)
    expected = runner.features(images)

    compile_backbone(runner, SHAPE, "inductor")
    found = runner.features(images)

    assert runner.forward is not runner.module
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@needs_compiler
def test_a_compile_neither_looks_into_the_folder_that_others_can_prepare_nor_leaves_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Code that no other test has made: torch keeps it in memory, too.
    layers = [nn.Conv2d(3, 5, 3), nn.Hardtanh(-0.125, 0.4375), nn.AdaptiveAvgPool2d(1)]
    runner = make_runner(nn.Sequential(*layers, nn.Flatten()))
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ["TORCHINDUCTOR_CACHE_DIR"])
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # torch settled on this folder when it was imported.
    monkeypatch.setattr("torch._inductor.codecache._HEADER_DIR", str(tmp_path / "headers"))

    compile_backbone(runner, SHAPE, "inductor")

    assert runner.forward is not runner.module
    assert list(tmp_path.iterdir()) == []
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert str(tmp_path / "headers") == codecache._HEADER_DIR
    folder = code_folder()
    assert folder.is_relative_to(Path(os.environ["XDG_CACHE_HOME"]))
    assert list((folder / "precompiled_headers").glob("*.h"))


def test_the_users_own_folder_for_compiled_code_is_used_and_the_variable_stays(
    runner: BackboneRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "mine" / ".." / "compiled"
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(users))
    used: list[str] = []

    def compile_nothing(*args: object, **options: object) -> Any:
        used.extend((os.environ["TORCHINDUCTOR_CACHE_DIR"], codecache._HEADER_DIR))
        return lambda batch: batch.mean((2, 3))

    monkeypatch.setattr(torch, "compile", compile_nothing)

    compile_backbone(runner, SHAPE, "inductor")

    mine = tmp_path / "compiled"
    assert used == [str(mine), str(mine / "precompiled_headers")]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(users)


@pytest.mark.parametrize("engine", ["inductor", "winograd"])
def test_an_engine_is_declined_where_no_folder_is_the_users_alone(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(open_to_all))
    monkeypatch.setenv("XDG_CACHE_HOME", str(open_to_all))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(open_to_all))
    _random_folder.cache_clear()
    _build.cache_clear()
    runner = make_runner(Wide())

    with pytest.raises(CompileError, match=f"{open_to_all}.*mode 0777"):
        compile_backbone(runner, SHAPE, engine)
    assert runner.forward is runner.module
    assert list(open_to_all.rglob("*.so")) == []
    _random_folder.cache_clear()


@needs_compiler
def test_what_was_compiled_under_other_settings_of_torch_is_not_compiled_again(
    runner: BackboneRunner,
) -> None:
    images = np.zeros((4, *SHAPE), np.uint8)
    compile_backbone(runner, SHAPE, "inductor")
    expected = runner.features(images)

    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(DeviceError, match="does not fit these inputs or torch's settings"):
            runner.features(images)
    finally:
        torch.set_default_dtype(torch.float32)

    assert runner.features(images).tobytes() == expected.tobytes()


@small_blocks()
def test_the_same_command_resumes_where_the_engine_did_not_suit(
    extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run was eager, whatever was asked for."""
    say(monkeypatch, lambda _: None)
    asked = {"backbone": "resnet18", "image_size": 32, "compile": "winograd"}
    with pytest.raises(InterruptedRunError):
        extract(**asked, on_progress=StopAfter(4))

    assert extract(**asked).outcome == "resumed"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_convolution_and_relu_in_one_give_the_same_features(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setitem(ENGINES, "fused", dataclasses.replace(ENGINES["fused"], device="cpu"))
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    runner = make_runner(nn.Sequential(*layers, nn.Flatten()), precision=precision)
    images = np.random.default_rng(1).integers(0, 256, (4, *SHAPE), np.uint8)
    expected = runner.features(images)

    compile_backbone(runner, SHAPE, "fused")
    found = runner.features(images)

    assert any(isinstance(part, FusedConv2d) for part in runner.forward.modules())
    assert np.abs(found - expected).max() <= feature_tolerance(precision) * np.abs(expected).max()


@pytest.mark.parametrize(
    ("engine", "why"),
    [
        ("fused", "fused is for backbones on a CUDA device."),
        ("tvm", "No engine 'tvm' is known here."),
    ],
)
def test_an_engine_of_another_device_is_declined(
    runner: BackboneRunner, engine: str, why: str
) -> None:
    with pytest.raises(CompileError) as raised:
        compile_backbone(runner, SHAPE, engine)

    assert str(raised.value) == why
    assert runner.forward is runner.eager


def test_an_engine_that_gives_other_bits_each_time_is_declined(
    settle: Callable[..., Any], runner: BackboneRunner
) -> None:
    calls: list[int] = []

    def forward(batch: Tensor) -> Tensor:
        calls.append(1)
        features: Tensor = runner.module(batch)
        return features + 1e-7 * len(calls)

    choice, _ = settle(forward=forward)

    assert choice.value is None
    assert "gives other features of the same images each time" in choice.why


@needs_compiler
def test_two_compiled_backbones_of_a_class_keep_apart(runner: BackboneRunner) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, *SHAPE), np.uint8)
    other = make_runner()
    with torch.no_grad():
        other.module.conv.bias += 1.0
    expected = [runner.features(images), other.features(images)]

    compile_backbone(runner, SHAPE, "inductor")
    compile_backbone(other, SHAPE, "inductor")

    for one, rows in zip((runner, other, runner), (*expected, expected[0]), strict=True):
        assert np.abs(one.features(images) - rows).max() <= 1e-5 * np.abs(rows).max()


@needs_compiler
@pytest.mark.parametrize("engine", ["winograd", "inductor", "fused"])
@small_blocks()
def test_a_compiled_run_resumes_compiled_and_byte_identical(
    extract: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Adapted BatchNorm too: a graph compiled before would have the statistics of before."""
    monkeypatch.setitem(ENGINES, "fused", dataclasses.replace(ENGINES["fused"], device="cpu"))
    asked = {"backbone": "resnet18", "bn": "adapted", "image_size": 32}
    whole = extract(**asked, compile=engine, cache_dir=tmp_path / "whole").path
    eager = extract(**asked, compile="never", cache_dir=tmp_path / "eager").path
    with pytest.raises(InterruptedRunError):
        extract(**asked, compile=engine, on_progress=StopAfter(4))

    with pytest.raises(MismatchError, match="compiler"):
        extract(**asked, compile="never")
    other = "winograd" if engine == "inductor" else "inductor"
    with pytest.raises(MismatchError, match=f"begun with --compile {engine}, not {other}"):
        extract(**asked, compile=other)
    told: list[str] = []
    resumed = extract(**asked, on_note=told.append)

    assert resumed.outcome == "resumed"
    assert f"compiling the backbone ({engine}), as the first run did" in told
    assert resumed.path.read_bytes() == whole.read_bytes()
    found = featcache.open_cache(whole)["train"].features[:]
    expected = featcache.open_cache(eager)["train"].features[:]
    assert found.tobytes() != expected.tobytes()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
