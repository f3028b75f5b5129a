from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.runner import BackboneRunner
from featcache.core.memory import MemoryWatch
from featcache.core.preprocess import Preprocess
from featcache.errors import DeviceError


class Watching(nn.Module):
    """A small backbone that remembers its batch sizes, and runs out of memory above a limit."""

    def __init__(self, *, most: int = 1000, error: Exception | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 64, 3)
            self.linear = nn.Linear(64, 512)
        self.most = most
        self.error = error or torch.OutOfMemoryError("no memory left on the device")
        self.seen: list[int] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.seen.append(len(batch))
        if len(batch) > self.most:
            raise self.error
        features: Tensor = self.linear(self.conv(batch).mean((2, 3)))
        return features


@pytest.fixture
def make_runner() -> Callable[..., BackboneRunner]:
    def make(module: nn.Module, batch_size: int, *, precision: str = "fp32") -> BackboneRunner:
        return BackboneRunner(
            module.eval(),
            preprocess=Preprocess.notebook(16),
            device="cpu",
            precision=precision,
            batch_size=batch_size,
        )

    return make


def images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_a_short_batch_runs_at_full_shape_and_gives_the_same_bits(
    make_runner: Callable[..., BackboneRunner],
) -> None:
    module = Watching()
    runner = make_runner(module, 16)

    whole = runner.features(images(16))
    short = runner.features(images(16)[:5])

    assert module.seen == [16, 16]
    assert short.shape == (5, 512)
    assert (short == whole[:5]).all()


def test_the_probe_halves_until_a_batch_fits(make_runner: Callable[..., BackboneRunner]) -> None:
    module = Watching(most=10)
    runner = make_runner(module, 64)

    assert runner.probe((8, 8, 3), may_halve=True) == 8
    assert module.seen == [64, 32, 16, 8]
    assert runner.batch_size == 8
    assert not runner.seconds


@pytest.mark.parametrize(
    "said",
    [
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
    ],
)
def test_the_probe_halves_however_the_device_says_that_no_memory_is_left(
    make_runner: Callable[..., BackboneRunner], said: str
) -> None:
    module = Watching(most=10, error=RuntimeError(said))

    assert make_runner(module, 64).probe((8, 8, 3), may_halve=True) == 8


def test_the_probe_does_not_halve_for_other_errors(
    make_runner: Callable[..., BackboneRunner],
) -> None:
    module = Watching(most=10, error=RuntimeError("size mismatch"))

    with pytest.raises(DeviceError, match=r"with a batch of 64: size mismatch"):
        make_runner(module, 64).probe((8, 8, 3), may_halve=True)


def test_the_probe_halves_until_memory_is_to_spare(
    make_runner: Callable[..., BackboneRunner],
) -> None:
    module = Watching()
    runner = make_runner(module, 64)

    class Short(MemoryWatch):
        """A GPU on which a batch above 16 takes nearly all memory."""

        def was_short(self) -> bool:
            return module.seen[-1] > 16

    batch_size = runner.probe((8, 8, 3), may_halve=True, watch=Short)

    assert batch_size == 16
    assert module.seen == [64, 32, 16]


def test_a_batch_size_that_was_asked_for_is_not_halved(
    make_runner: Callable[..., BackboneRunner],
) -> None:
    runner = make_runner(Watching(most=10), 64)

    with pytest.raises(DeviceError, match=r"failed on cpu with a batch of 64: no memory left"):
        runner.probe((8, 8, 3), may_halve=False)


def test_a_backbone_too_large_for_one_image_is_a_device_error(
    make_runner: Callable[..., BackboneRunner],
) -> None:
    with pytest.raises(DeviceError, match="a batch of 1"):
        make_runner(Watching(most=0), 4).probe((8, 8, 3), may_halve=True)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 3e-2), ("fp16", 4e-3)])
def test_lower_precision_is_used_and_stays_near(
    make_runner: Callable[..., BackboneRunner], precision: str, tolerance: float
) -> None:
    exact = make_runner(Watching(), 4).features(images(4))

    rough = make_runner(Watching(), 4, precision=precision).features(images(4))

    difference = np.abs(rough - exact).max() / np.abs(exact).max()
    assert 0 < difference < tolerance
    assert rough.dtype == np.float32


def test_a_precision_set_by_the_user_stops_no_extraction(
    make_runner: Callable[..., BackboneRunner],
) -> None:
    runner = make_runner(Watching(), 4)
    before = runner.features(images(4))

    torch.backends.fp32_precision = "tf32"  # torch's own advice for Ampere and later
    try:
        after = runner.features(images(4))
    finally:
        torch.backends.fp32_precision = "none"

    assert (before == after).all()
