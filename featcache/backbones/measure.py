"""What a network is and costs, measured on torch's meta device without its weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from featcache.backbones.sizes import too_small

FLOAT_NBYTES = 4


class Measured(NamedTuple):
    """What one image costs; the names are those of `BackboneInfo`."""

    n_features: int
    n_params: int
    gflop: float
    activation_bytes_per_image: int


def measure(backbone: nn.Module, *, name: str, image_size: int, made_for: int) -> Measured:
    """Do as `cost`, and say which sizes a backbone takes where it does not take this one.

    Args:
        backbone: (B, 3, H, W) -> (B, D), on the meta device.
        name: Names the backbone in messages.
        image_size: Side of the image in pixels.
        made_for: The side that its default weights were made for.

    Raises:
        UsageError: If the backbone does not take this size; names the smallest that it takes.
    """
    try:
        return cost(backbone, image_size)
    except (RuntimeError, AssertionError, ValueError) as err:
        smallest = _smallest_size(backbone, made_for)
        raise too_small(name, image_size, smallest=smallest, made_for=made_for) from err


def cost(backbone: nn.Module, image_size: int, *, device: str = "meta") -> Measured:
    """Push one empty image through a backbone, and count.

    Args:
        backbone: (B, 3, H, W) -> (B, D).
        image_size: Side of the image in pixels.
        device: Where the backbone is: the meta device, where nothing is computed, or the CPU.

    Raises:
        Exception: Whatever the backbone says of this size.
    """
    layer_sizes: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, x, y: layer_sizes.append(_n_values(x, y)))
        for layer in backbone.modules()
        if not list(layer.children())
    ]
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            n_features = int(_forward(backbone, image_size, device).shape[1])
    finally:
        for hook in hooks:
            hook.remove()
    return Measured(
        n_features=n_features,
        n_params=sum(p.numel() for p in backbone.parameters()),
        gflop=counter.get_total_flops() / 1e9,
        activation_bytes_per_image=max(layer_sizes, default=n_features) * FLOAT_NBYTES,
    )


def _n_values(inputs: tuple[Tensor, ...], output: Tensor) -> int:
    tensors = [t for t in (*inputs, output) if isinstance(t, Tensor)]
    return sum(t.numel() for t in tensors)


def _forward(backbone: nn.Module, image_size: int, device: str) -> Tensor:
    with torch.no_grad():
        out: Tensor = backbone(torch.zeros(1, 3, image_size, image_size, device=device))
    return out


def _smallest_size(backbone: nn.Module, works: int) -> int:
    fails = 0
    while works - fails > 1:
        middle = (works + fails) // 2
        try:
            _forward(backbone, middle, "meta")
            works = middle
        except (RuntimeError, AssertionError, ValueError):
            fails = middle
    return works
