"""Ways to run a backbone faster than eagerly, by name; which pays, a trial says (trial.py)."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featcache.backbones.cast_weights import Forward, with_weights_cast
from featcache.backbones.engines.fused import VERSION as FUSED_VERSION
from featcache.backbones.engines.fused import can_fuse, with_fused_convolutions
from featcache.backbones.engines.inductor import compiled_by_inductor
from featcache.backbones.engines.winograd import (
    has_winograd_convolutions,
    source_digest,
    with_winograd_convolutions,
)
from featcache.core.arithmetic import HALVES

_PLAIN = (
    nn.Conv2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Linear,
    nn.Dropout,
    nn.Identity,
    nn.Sequential,
)
NO_COMPILER = "no C++ compiler answers (g++, or the one program that CXX names)"


@dataclass(frozen=True)
class Engine:
    """One way.

    Attributes:
        name: As `--compile` has it.
        device: "cpu" or "cuda": where it is for.
        version: Names all that decides its digits beside the numeric class; None where it is not
            to be had here.
        missing: Why it is not.
        refusal: Of a backbone and its precision: why it is not for them; empty if it is.
        may_gain: Of a backbone: whether a trial is worth a thought.
        compile_s: Of a backbone: about how many seconds it takes to build, on the two cores where
            it was measured, with nothing compiled before.
        build: Of a backbone, its precision, and a batch as all that will come: what runs instead.
            It may raise anything.
    """

    name: str
    device: str
    version: Callable[[], str | None]
    missing: str
    refusal: Callable[[nn.Module, str], str]
    may_gain: Callable[[nn.Module], bool]
    compile_s: Callable[[nn.Module], float]
    build: Callable[[nn.Module, str, Tensor], Forward]


def cpp_compiler() -> str:
    """Name the C++ compiler that torch would use: what CXX says, as in "ccache g++", or g++.

    Raises:
        Exception: Of torch's own kind, if there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    name: str = get_cpp_compiler()
    return name


def engine_of(compiler: str) -> str:
    """Name the engine of what a numeric class calls its compiler, or an engine itself."""
    return compiler.partition(",")[0].partition(" ")[0]


def _cpp_version() -> str | None:
    try:
        asked = subprocess.run(
            [*shlex.split(cpp_compiler()), "--version"],
            capture_output=True,
            text=True,
            check=True,
        )
    except Exception:  # whatever is missing or broken: there is no compiler
        return None
    return asked.stdout.partition("\n")[0]


def _winograd_version() -> str | None:
    version = _cpp_version()
    return version and f"winograd {source_digest()}, {version}"


def _inductor_version() -> str | None:
    version = _cpp_version()
    return version and f"inductor, {version}"


def _winograd_refusal(module: nn.Module, precision: str) -> str:
    # Its arithmetic is fp32 always, so in bf16 it is the more exact one.
    if precision in {"fp32", "bf16"} and has_winograd_convolutions(module):
        return ""
    return (
        f"Winograd's algorithm is for 3x3 convolutions in fp32, which bf16 may have too: this "
        f"backbone has none, or is in another precision ({precision})."
    )


def _with_winograd(module: nn.Module, precision: str, example: Tensor) -> Forward:
    backbone = with_winograd_convolutions(module, cpp_compiler())
    backbone(example)
    return backbone


def _fused_version() -> str | None:
    return f"fused {FUSED_VERSION}" if torch.backends.cudnn.is_available() else None


def _fused_refusal(module: nn.Module, precision: str) -> str:
    if any(can_fuse(part) for part in module.modules()):
        return ""
    return "this backbone has no 1x1 or 3x3 convolutions of one group, which alone are fused"


def _fused(module: nn.Module, precision: str, example: Tensor) -> Forward:
    backbone = with_fused_convolutions(module)
    if precision in HALVES:
        backbone = with_weights_cast(backbone, HALVES[precision])
    backbone(example)
    return backbone


def _has_more_than_convolutions(module: nn.Module) -> bool:
    """VGG16 is as fast eagerly: there is little between its convolutions that could be fused."""
    leaves = [part for part in module.modules() if not list(part.children())]
    return any(not isinstance(part, _PLAIN) for part in leaves)


def _fused_s(module: nn.Module) -> float:
    return 0.005 * _n_layers(module)  # to trace it: VGG16 0.1 s, MobileNetV3-Large 0.6 to 1.0 s


def _n_layers(module: nn.Module) -> int:
    return sum(1 for part in module.modules() if not list(part.children()))


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            name="winograd",
            device="cpu",
            version=_winograd_version,
            missing=NO_COMPILER,
            refusal=_winograd_refusal,
            may_gain=lambda module: True,
            compile_s=lambda module: 2.0,
            build=_with_winograd,
        ),
        Engine(
            name="inductor",
            device="cpu",
            version=_inductor_version,
            missing=NO_COMPILER,
            refusal=lambda module, precision: "",
            may_gain=_has_more_than_convolutions,
            compile_s=lambda module: 10 + 0.1 * _n_layers(module),
            build=lambda module, precision, example: compiled_by_inductor(module, example),
        ),
        Engine(
            name="fused",
            device="cuda",
            version=_fused_version,
            missing="torch has no cuDNN here",
            refusal=_fused_refusal,
            may_gain=lambda module: True,
            compile_s=_fused_s,
            build=_fused,
        ),
    )
}
