from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.engines.memory_format import settle_memory_format
from featcache.backbones.runner import BackboneRunner
from featcache.core.device import numeric_class
from featcache.core.preprocess import Preprocess

SHAPE = (8, 8, 3)


class Slow(nn.Module):
    """A backbone that is slow, or has no memory, in one memory format."""

    def __init__(self, slow_in: torch.memory_format, *, fails: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 3)
        self.slow_in, self.fails = slow_in, fails

    def forward(self, batch: Tensor) -> Tensor:
        for tensor in (batch, self.conv.weight):
            if tensor.is_contiguous(memory_format=self.slow_in):
                if self.fails:
                    raise torch.OutOfMemoryError("no memory left on the device")
                time.sleep(0.01)
        features: Tensor = self.conv(batch).mean((2, 3))
        return features


def make_runner(module: nn.Module) -> BackboneRunner:
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
    return BackboneRunner(
        module.eval(), preprocess=Preprocess.notebook(16), batch_size=4, **options
    )


@pytest.mark.parametrize(
    ("slow_in", "chosen", "other"),
    [
        (torch.contiguous_format, "channels_last", torch.contiguous_format),
        (torch.channels_last, "contiguous", torch.channels_last),
    ],
)
def test_the_faster_memory_format_is_kept(
    slow_in: torch.memory_format, chosen: str, other: torch.memory_format
) -> None:
    runner = make_runner(Slow(slow_in))
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
    expected = runner.features(images)

    choice = settle_memory_format(runner, SHAPE)

    assert choice.value == runner.memory_format == chosen
    assert "times as fast as channels_last" in choice.why
    assert not runner.inputs(images).is_contiguous(memory_format=other)
    assert not runner.module.conv.weight.is_contiguous(memory_format=other)
    assert np.abs(runner.features(images) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_format_without_room_is_not_taken() -> None:
    runner = make_runner(Slow(torch.contiguous_format, fails=True))

    choice = settle_memory_format(runner, SHAPE)

    assert choice == ("channels_last", "contiguous does not fit")
    assert runner.features(np.zeros((4, *SHAPE), np.uint8)).shape == (4, 8)


def test_the_memory_format_is_a_fact_of_the_numeric_class() -> None:
    plain = numeric_class(device="cpu", precision="fp32", batch_size=4)
    other = numeric_class(device="cpu", precision="fp32", batch_size=4, memory_format="contiguous")

    assert plain["memory_format"] == "channels_last"
    assert plain | {"memory_format": "contiguous"} == other
