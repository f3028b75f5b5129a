from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.engines import winograd
from featcache.backbones.engines.engine import ENGINES, cpp_compiler
from featcache.backbones.engines.winograd import (
    has_winograd_convolutions,
    with_winograd_convolutions,
)

pytestmark = pytest.mark.skipif(ENGINES["winograd"].version() is None, reason="no C++ compiler")


@pytest.fixture(
    scope="module",
    autouse=True,
    params=[(), ("-mno-avx512f",)],
    ids=["the widest vectors", "eight lanes at most"],
)
def flags(request: pytest.FixtureRequest) -> Iterator[None]:
    """Build the source for this processor, and as for one without AVX-512."""
    if request.param and platform.machine() != "x86_64":
        pytest.skip("the option is one of x86")
    own = winograd._FLAGS
    winograd._FLAGS = (*own, *request.param)
    winograd._build.cache_clear()
    yield
    winograd._FLAGS = own
    winograd._build.cache_clear()


def conv(n_in: int = 16, n_out: int = 32, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, **{"padding": 1, **options})


def laid_out(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(shape, generator=generator)
    return batch.contiguous(memory_format=torch.channels_last)


def replaced(*layers: nn.Module) -> nn.Module:
    return with_winograd_convolutions(nn.Sequential(*layers), cpp_compiler())


@pytest.fixture(autouse=True)
def reproducible() -> Any:
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 7, 8, 13])
@pytest.mark.parametrize("width", [1, 4, 6, 11])
def test_every_size_agrees_with_the_direct_convolution(height: int, width: int) -> None:
    layer = conv(48, 32)
    batch = laid_out(3, 48, height, width)
    expected = layer.double()(batch.double())

    found = replaced(layer.float())(batch)

    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("n_in", "n_out"), [(16, 32), (64, 64), (512, 32), (400, 320)])
def test_every_number_of_channels_agrees(n_in: int, n_out: int) -> None:
    """More tiles than one block has, and a last block that is not full."""
    layer = conv(n_in, n_out)
    batch = laid_out(3, n_in, 28, 26)
    expected = layer.double()(batch.double())

    found = replaced(layer.float())(batch)

    assert (found - expected).abs().max() <= 5e-5 * expected.abs().max()


def test_a_row_depends_neither_on_its_batch_nor_on_the_threads() -> None:
    backbone = replaced(conv(16, 32), nn.ReLU(), conv(32, 32), nn.ReLU(), nn.MaxPool2d(2))
    batch = laid_out(5, 16, 21, 19)
    whole = backbone(batch)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        again = backbone(batch)
    finally:
        torch.set_num_threads(threads)

    assert torch.equal(again, whole)
    for i in range(5):
        assert torch.equal(backbone(batch[i : i + 1]), whole[i : i + 1])


def test_relu_is_done_on_the_way_and_nan_stays() -> None:
    layers = [conv(), nn.ReLU(inplace=True)]
    batch = laid_out(1, 16, 9, 9)
    expected = nn.Sequential(*layers)(batch)

    backbone = replaced(*layers)

    assert isinstance(backbone[1], nn.Identity)
    assert (backbone(batch) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (backbone(batch) >= 0).all()
    batch[0, 3, 4, 4] = torch.nan
    assert backbone(batch)[0, :, 4, 4].isnan().all()


@pytest.mark.parametrize("height", [2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("width", [2, 6, 7])
def test_pooling_is_done_on_the_way_at_every_size(height: int, width: int) -> None:
    layers = [conv(), nn.ReLU(), nn.MaxPool2d(2)]
    batch = laid_out(2, 16, height, width)
    expected = nn.Sequential(*layers)(batch)

    backbone = replaced(*layers)
    found = backbone(batch)

    assert type(backbone[2]) is nn.Identity
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    batch[0, 3, 0, 0] = torch.nan
    must_be_nan = nn.Sequential(*layers)(batch).isnan()  # the whole tile may be
    assert must_be_nan.any()
    assert backbone(batch)[must_be_nan].isnan().all()


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, stride=2),
        nn.MaxPool2d(2, stride=1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d((2, 1)),
        nn.AvgPool2d(2),
    ],
)
def test_other_pooling_stays(pool: nn.Module) -> None:
    layers = [conv(), nn.ReLU(), pool]
    batch = laid_out(2, 16, 7, 7)
    expected = nn.Sequential(*layers)(batch)

    backbone = replaced(*layers)

    assert type(backbone[2]) is type(pool)
    assert (backbone(batch) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_module_itself_is_left_as_it_was_and_its_tensors_are_shared() -> None:
    module = nn.Sequential(conv(), nn.BatchNorm2d(32), nn.ReLU()).eval()

    backbone = with_winograd_convolutions(module, cpp_compiler())

    assert type(module[0]) is nn.Conv2d
    assert type(backbone[0]) is not nn.Conv2d
    assert type(backbone[2]) is nn.ReLU  # behind BatchNorm, not behind the convolution
    assert backbone[1].running_mean.data_ptr() == module[1].running_mean.data_ptr()


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"padding": 0},
        {"padding": "same"},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"padding_mode": "reflect"},
        {"size": 5, "padding": 2},
        {"size": 1, "padding": 0},
        {"n_in": 8},
        {"n_out": 16},
    ],
)
def test_other_convolutions_stay(options: dict[str, Any]) -> None:
    assert not has_winograd_convolutions(nn.Sequential(conv(**options)))


def test_other_layouts_and_no_bias_agree() -> None:
    layer = conv(bias=False)
    batch = laid_out(2, 16, 6, 6).contiguous()
    expected = layer(batch)

    found = replaced(layer)(batch)

    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_compiler_that_fails_says_so() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-compiler"):
        with_winograd_convolutions(nn.Sequential(conv()), "no-such-compiler")


def test_a_repeated_convolution_keeps_its_neighbours() -> None:
    layer = conv(32, 32)
    batch = laid_out(2, 32, 9, 9)
    expected = nn.Sequential(layer, layer, nn.ReLU())(batch)

    found = replaced(layer, layer, nn.ReLU())(batch)

    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_no_images_and_other_channels() -> None:
    backbone = replaced(conv(16, 32))

    assert backbone(laid_out(0, 16, 5, 5)).shape == (0, 32, 5, 5)
    with pytest.raises(RuntimeError, match="expected 16 channels"):
        backbone(laid_out(1, 32, 5, 5))
