"""What is taken from a backbone as features, where that is not what enters its classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from featcache.backbones.family import BackboneInfo, LoadedBackbone
from featcache.backbones.layers import LayerFeatures, find_layer, find_layers, token_features
from featcache.backbones.measure import cost
from featcache.core.tensor_files import state_digest, whole_state

Blank = Callable[[int], nn.Module]
"""Builds a backbone on the meta device for a size in pixels."""


class Asked(NamedTuple):
    """What --layer and --pool ask for.

    Attributes:
        layer: The name of a part; None is what enters the classifier.
        pool: "default", or how its output becomes a row.
    """

    layer: str | None
    pool: str

    @property
    def is_usual(self) -> bool:
        """Whether it is what a backbone gives of itself."""
        return self.layer is None and self.pool == "default"


def info_of_taken(info: BackboneInfo, asked: Asked, blank: Blank) -> BackboneInfo:
    """Measure a backbone again with what is asked for.

    Raises:
        UsageError: If the backbone cannot give it.
    """
    module, _, _ = _taken(blank(info.image_size), asked, blank, info.name, info.image_size)
    return replace(info, **cost(module, info.image_size)._asdict())


def take(loaded: LoadedBackbone, asked: Asked, blank: Blank, image_size: int) -> LoadedBackbone:
    """Let a backbone give what is asked for.

    Its digest then covers buffers outside the state dict, too.

    Raises:
        UsageError: If the backbone cannot give it.
    """
    network = loaded.module
    assert network is not None, "pixels were refused before"
    if asked.layer is None and asked.pool == loaded.identity.get("pool"):
        return loaded  # what it does itself
    digest = state_digest(whole_state(network))
    module, shape, pool = _taken(network, asked, blank, loaded.name, image_size)
    layer = asked.layer or loaded.layer
    told = f"layer {layer}: {shape}, pooling {pool}" if asked.layer else f"pooling: {pool}"
    return replace(
        loaded,
        module=module.eval().requires_grad_(False),
        n_features=info_features(blank, asked, loaded.name, image_size),
        layer=layer,
        weights_sha256=digest,
        identity={**loaded.identity, "pool": pool},
        notes=(*(n for n in loaded.notes if not n.startswith("pooling: ")), told),
    )


def info_features(blank: Blank, asked: Asked, name: str, image_size: int) -> int:
    """Count the features that are asked for, on the meta device."""
    module, _, _ = _taken(blank(image_size), asked, blank, name, image_size)
    return cost(module, image_size).n_features


def _taken(
    network: nn.Module, asked: Asked, blank: Blank, name: str, image_size: int
) -> tuple[nn.Module, str, str]:
    """Wrap a network; also give the shape of what is pooled, and the pool that is meant."""
    if asked.layer is None:
        return token_features(network, asked.pool, backbone=name), "", asked.pool
    layers = find_layers(blank, image_size)
    layer = find_layer(layers, asked.layer, asked.pool, backbone=name)
    shape = " x ".join(map(str, layer.shape))
    return LayerFeatures(network, layer), shape, layer.pools[0]
