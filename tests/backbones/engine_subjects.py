"""Small backbones for engines, and the runner that runs them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.engines.engine import ENGINES
from featcache.backbones.runner import BackboneRunner
from featcache.core.preprocess import Preprocess

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
