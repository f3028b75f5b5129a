from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._inductor import codecache
from torch._inductor import config as inductor

from featcache.backbones.engines.code_folder import _random_folder, code_folder
from featcache.backbones.engines.engine import ENGINES
from featcache.backbones.engines.fused import FusedConv2d
from featcache.backbones.engines.trial import (
    CompileError,
    compile_backbone,
)
from featcache.backbones.engines.winograd import _build
from featcache.backbones.runner import BackboneRunner
from featcache.core.tolerances import feature_tolerance
from featcache.errors import DeviceError
from tests.backbones.engine_subjects import SHAPE, Wide, make_runner, needs_compiler


@pytest.fixture
def runner() -> BackboneRunner:
    return make_runner()


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


def test_what_the_compiler_says_is_told(tmp_path: Path) -> None:
    script = tmp_path / "c++"
    script.write_text(
        "#!/bin/sh\n[ $1 = --version ] && exit\nprintf 'in f:\\nerror: bad -march\\n' >&2; exit 1\n"
    )
    script.chmod(0o755)
    runner = make_runner(Wide())

    with (
        inductor.patch({"cpp.cxx": (str(script),)}),
        pytest.raises(CompileError, match="failed to compile: error: bad -march"),
    ):
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
def test_a_backbone_compiled_again_is_the_one_of_now_and_gives_the_same_bits() -> None:
    """As a resumed run compiles it; adapted statistics are in it."""
    images = np.random.default_rng(1).integers(0, 256, (4, *SHAPE), np.uint8)
    first, again, adapted = make_runner(), make_runner(), make_runner()
    adapted.module.norm.running_mean.fill_(0.25)
    expected = adapted.features(images)

    for runner in (first, again, adapted):
        compile_backbone(runner, SHAPE, "inductor")

    assert first.features(images).tobytes() == again.features(images).tobytes()
    assert np.abs(adapted.features(images) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert first.features(images).tobytes() != adapted.features(images).tobytes()


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
