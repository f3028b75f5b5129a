from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.cast_weights import with_weights_cast
from featcache.backbones.engines.fused import FusedConv2d, with_fused_convolutions
from featcache.backbones.torchvision_models import build_backbone


def conv(n_in: int = 4, n_out: int = 4, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, **{"padding": size // 2, **options})


def batch(n_channels: int = 4, side: int = 9) -> Tensor:
    images = torch.randn(2, n_channels, side, side, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def n_left(backbone: nn.Module, kind: type[nn.Module]) -> int:
    return sum(type(part) is kind for part in backbone.modules())


def lived(module: nn.Module) -> nn.Module:
    """With statistics as of some training."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.1)
    return module.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def reproducible() -> Any:
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        yield


class Block(nn.Module):
    """Two convolutions, the second beside a short cut."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor], cut: nn.Module) -> None:
        super().__init__()
        self.one, self.two, self.cut = conv(), conv(bias=False), cut
        self.norm = nn.BatchNorm2d(4)
        self.add = add

    def forward(self, images: Tensor) -> Tensor:
        out = self.norm(self.two(self.one(images).relu_()))
        return torch.relu(self.add(out, self.cut(images)))


@pytest.mark.parametrize(
    ("name", "n_fused", "n_norms"),
    [
        ("vgg11", 8, 0),
        ("resnet18", 16, 0),
        ("mobilenet_v3_small", 11, 0),
        ("squeezenet1_1", 25, 0),
        ("densenet121", 58, 62),
    ],
)
def test_a_backbone_of_torchvision_gives_the_same_features(
    name: str, n_fused: int, n_norms: int
) -> None:
    backbone = lived(build_backbone(name, image_size=64))
    images = batch(3, 64)
    expected = backbone(images)

    fused = with_fused_convolutions(backbone)

    assert n_left(fused, FusedConv2d) == n_fused
    assert n_left(fused, nn.BatchNorm2d) == n_norms
    assert (fused(images) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(backbone(images), expected)


def added(out: Tensor, other: Tensor) -> Tensor:
    return out + other


def added_in_place(out: Tensor, other: Tensor) -> Tensor:
    out += other
    return out


@pytest.mark.parametrize("cut", [nn.Identity(), conv(size=1), nn.MaxPool2d(3, 1, 1)])
@pytest.mark.parametrize(
    "add",
    [added, added_in_place, torch.add, lambda a, b: b + a, lambda a, b: a + a, lambda a, b: a * b],
)
def test_a_short_cut_is_added_on_the_way(add: Any, cut: nn.Module) -> None:
    block = lived(Block(add, cut))
    expected = block(batch())

    fused = with_fused_convolutions(block)

    assert (fused(batch()) - expected).abs().max() <= 1e-6 * expected.abs().max()


class Twice(nn.Module):
    """One convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = conv(), conv()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.conv(self.conv(self.other(images).relu()).relu())
        return features


class Watched(nn.Module):
    """Somebody else takes what the convolution gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = conv(), conv()

    def forward(self, images: Tensor) -> Tensor:
        out = self.conv(images)
        features: Tensor = self.other(out.relu()).relu() + out
        return features


@pytest.mark.parametrize("module", [Twice(), Watched()])
def test_a_convolution_that_others_need_stays(module: nn.Module) -> None:
    expected = lived(module)(batch())

    fused = with_fused_convolutions(module)

    assert n_left(fused, FusedConv2d) == 1
    assert torch.equal(fused(batch()), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 5},
        {"size": 7, "stride": 2},
        {"groups": 4},
        {"padding": "same"},
        {"padding_mode": "reflect"},
    ],
)
def test_other_convolutions_keep_their_relu(options: dict[str, Any]) -> None:
    backbone = lived(nn.Sequential(conv(**options), nn.BatchNorm2d(4), nn.ReLU()))
    expected = backbone(batch())

    fused = with_fused_convolutions(backbone)

    assert n_left(fused, nn.BatchNorm2d) == 0
    assert n_left(fused, nn.ReLU) == 1
    assert (fused(batch()) - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_backbone_with_nothing_to_fuse_is_refused() -> None:
    with pytest.raises(ValueError, match="no convolution with BatchNorm or ReLU right behind"):
        with_fused_convolutions(nn.Sequential(conv(), nn.GELU()))


class SaidToBeOnCuda(Tensor):
    """A tensor on the CPU that says the other."""

    is_cuda = True


def test_on_cuda_it_is_one_call_of_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations are called on the CPU with what they would be given on CUDA."""
    called: list[str] = []

    def one(x: Tensor, w: Tensor, b: Tensor, *how: Any) -> Tensor:
        called.append("relu")
        return torch.conv2d(x, w, b, *how).relu()

    def added(x: Tensor, w: Tensor, z: Tensor, alpha: float, b: Tensor, *how: Any) -> Tensor:
        called.append("add_relu")
        return (torch.conv2d(x, w, b, *how) + alpha * z).relu()

    block = lived(Block(added_in_place, nn.Identity()))
    expected = block(batch())
    fused = with_fused_convolutions(block)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", one)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", added)

    found = fused(batch().as_subclass(SaidToBeOnCuda))

    assert called == ["relu", "add_relu"]
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16", "convnext_tiny"])
def test_weights_cast_once_give_the_bits_of_autocast(name: str) -> None:
    size = 224 if name == "vit_b_16" else 32
    backbone = lived(build_backbone(name, image_size=size))
    before = {k: t.clone() for k, t in backbone.state_dict().items()}
    images = batch(3, size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = backbone(images)

        found = with_weights_cast(backbone, torch.bfloat16)(images)

    assert torch.equal(found, expected)
    assert all(torch.equal(t, before[k]) for k, t in backbone.state_dict().items())


def test_adapted_statistics_reach_the_backbone_whose_weights_were_cast() -> None:
    backbone = lived(nn.Sequential(conv(), nn.BatchNorm2d(4)))
    cast = with_weights_cast(backbone, torch.bfloat16)

    backbone.train()(batch())
    backbone.eval()

    assert torch.equal(cast[1].running_mean, backbone[1].running_mean)
    assert not np.isclose(backbone[1].running_mean.numpy(), 0).all()
    assert not cast[1].training
