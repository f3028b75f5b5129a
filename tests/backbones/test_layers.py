"""Any layer as features: what a hook takes, and what is refused instead of guessed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

import featcache
from featcache.backbones.cast_weights import shallow_copy
from featcache.backbones.describe import describe_backbone, list_layers
from featcache.backbones.families import family_of
from featcache.backbones.layers import LayerFeatures, find_layer, find_layers
from featcache.backbones.load import load_backbone
from featcache.core.random_state import seeded
from featcache.errors import UnknownNameError, UsageError
from featcache.extraction.result import ExtractResult

Extract = Callable[..., ExtractResult]


def built(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """Build a network on the meta device for any size."""

    def build(image_size: int) -> nn.Module:
        with torch.device("meta"):
            return make().eval()

    return build


def of_layer(backbone: str, layer: str, pool: str, size: int, batch: Tensor) -> Tensor:
    loaded = load_backbone(backbone, weights="random", image_size=size, layer=layer, pool=pool)
    with torch.no_grad():
        out: Tensor = loaded.module(batch)  # type: ignore[misc]
    assert out.shape == (len(batch), loaded.n_features)
    return out


def test_a_convolution_in_front_of_an_in_place_relu_keeps_its_negative_numbers() -> None:
    batch = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with seeded(0):
        network = models.vgg11(weights=None).eval()
    layers = find_layers(lambda side: family_of("vgg11").blank("vgg11", side), 32)
    both = {
        n: LayerFeatures(network, find_layer(layers, n, "flatten", backbone="vgg11"))
        for n in ("features.0", "features.1")
    }

    with torch.no_grad():
        network.features(batch)
        kept = {name: one.tap.taken().flatten(1) for name, one in both.items()}
        expected = network.features[0](batch).flatten(1)

    assert torch.equal(kept["features.0"], expected)
    assert kept["features.0"].min() < 0
    assert torch.equal(kept["features.1"], expected.clamp(min=0))


def test_channels_first_and_channels_last_are_told_apart() -> None:
    batch = torch.rand(2, 3, 64, 64)

    first = of_layer("resnet18", "layer2", "avg", 64, batch)
    last = of_layer("swin_t", "features.1", "max", 64, batch)

    with seeded(0):
        resnet = models.resnet18(weights=None).eval()
    with seeded(0):
        swin = models.swin_t(weights=None).eval()
    with torch.no_grad():
        maps = resnet.layer2(
            resnet.layer1(resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(batch)))))
        )
        assert torch.equal(first, maps.mean((2, 3)))
        assert torch.equal(last, swin.features[:2](batch).amax((1, 2)))


@pytest.mark.parametrize(("pool", "n"), [("cls", 768), ("mean", 768), ("cls+mean", 1536)])
def test_tokens_of_a_vision_transformer_are_pooled_without_the_class_token(
    pool: str, n: int
) -> None:
    info = describe_backbone("vit_b_32", 224, layer="encoder.ln", pool=pool)

    assert info.n_features == n
    [layer] = [one for one in list_layers("vit_b_32", 224) if one.name == "encoder.ln"]
    assert (layer.shape, layer.n_prefix) == ((50, 768), 1)


def test_tokens_of_timm_are_pooled_by_their_own_norm_and_never_by_another_model() -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed; `dev` has it")
    batch = torch.rand(2, 3, 160, 160)

    usual = load_backbone("timm:test_vit", weights="random")
    cls = load_backbone("timm:test_vit", weights="random", pool="cls")
    mean = load_backbone("timm:test_vit", weights="random", pool="mean")
    both = load_backbone("timm:test_vit", weights="random", pool="cls+mean")

    assert cls.module is not usual.module
    assert cls.identity == usual.identity
    assert (mean.identity["pool"], both.identity["pool"]) == ("mean", "cls+mean")
    assert mean.weights_sha256 == usual.weights_sha256
    with torch.no_grad():
        tokens = usual.module.forward_features(batch)
        assert torch.equal(cls.module(batch), usual.module(batch))
        assert torch.equal(mean.module(batch), tokens[:, 1:].mean(1))
        assert torch.equal(both.module(batch), torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1))


def test_a_layer_of_timm_can_be_asked_for() -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed; `dev` has it")
    batch = torch.rand(2, 3, 160, 160)

    out = of_layer("timm:test_vit", "blocks.1", "cls", 160, batch)

    network = load_backbone("timm:test_vit", weights="random").module
    seen: list[Tensor] = []
    network.blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        network(batch)
    assert torch.equal(out, seen[0][:, 0])


class Odd(nn.Module):
    """Parts that give what is no batch of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.twice = nn.ReLU()
        self.pair = Pair()
        self.turned = Turned()
        self.fixed = nn.AdaptiveAvgPool2d(2)
        self.unused = nn.ReLU()

    def forward(self, batch: Tensor) -> Tensor:
        maps = self.twice(self.twice(self.conv(batch)))
        self.pair(maps)
        self.turned(maps)
        return self.fixed(maps).flatten(1)


class Pair(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return maps, maps


class Turned(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("layer", "pool", "refusal"),
    [
        ("twice", "default", "it is run 2 times an image: name what holds it"),
        ("pair", "default", "it gives a tuple, not one tensor"),
        ("turned", "default", r"it gives \(\d+, 2, 4\) for 2 images: no row for each"),
        ("unused", "default", "it is not run for features"),
        ("fixed", "avg", "--pool avg does not fit --layer fixed of odd, which gives 4 x 2 x 2"),
        ("conv", "cls", "it takes avg, max, flatten"),
    ],
)
def test_what_is_no_batch_of_rows_is_refused(layer: str, pool: str, refusal: str) -> None:
    layers = find_layers(built(Odd), 16)

    with pytest.raises(UsageError, match=refusal):
        find_layer(layers, layer, pool, backbone="odd")


def test_an_unknown_layer_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"layer of resnet18 'layer5'.*'layer4'.*--layers"):
        describe_backbone("resnet18", 64, layer="layer5")


@pytest.mark.parametrize(
    ("backbone", "pool", "refusal"),
    [
        ("resnet18", "avg", "has no tokens to pool"),
        ("resnet18", "cls", "has no tokens to pool"),
        ("timm:test_efficientnet", "mean", "has no tokens to pool"),
    ],
)
def test_a_pool_without_tokens_is_refused(backbone: str, pool: str, refusal: str) -> None:
    if backbone.startswith("timm:"):
        pytest.importorskip("timm", reason="the extra timm is not installed; `dev` has it")
    with pytest.raises(UsageError, match=refusal):
        describe_backbone(backbone, pool=pool)


def test_a_copy_of_a_tapped_backbone_takes_from_itself() -> None:
    loaded = load_backbone("resnet18", weights="random", image_size=32, layer="layer1")
    batch = torch.rand(2, 3, 32, 32)

    copied: Any = shallow_copy(loaded.module)  # type: ignore[arg-type]

    with torch.no_grad():
        assert torch.equal(copied(batch), loaded.module(batch))  # type: ignore[misc]
    assert copied.tap is not loaded.module.tap  # type: ignore[union-attr]
    assert copied.tap.kept is None


def test_an_engine_that_replaces_the_tapped_part_fails_loudly() -> None:
    loaded = load_backbone("resnet18", weights="random", image_size=32, layer="layer1")
    loaded.module.network.layer1 = nn.Identity()  # type: ignore[union-attr]

    with pytest.raises(RuntimeError, match="did not run"):
        loaded.module(torch.rand(2, 3, 32, 32))  # type: ignore[misc]


def test_a_cache_of_a_layer_says_so_and_is_repaired(extract: Extract) -> None:
    make = partial(extract, limit=8, compile="never")

    usual, layer = make(), make(layer="features.3", pool="max")
    again = make(layer="features.3")

    cache = featcache.open_cache(layer.path)
    assert "pool" not in featcache.open_cache(usual.path).identity
    assert (cache.identity["layer"], cache.identity["pool"]) == ("features.3", "max")
    assert featcache.open_cache(again.path).identity["pool"] == "avg"
    before = layer.path.read_bytes()
    damaged = bytearray(before)
    damaged[before.index(cache["test"].features[0].tobytes())] ^= 1
    layer.path.write_bytes(damaged)
    assert featcache.repair_cache(layer.path).n_rows_computed > 0
    assert layer.path.read_bytes() == before
    assert not np.array_equal(
        cache["test"].features[0], featcache.open_cache(again.path)["test"].features[0]
    )
