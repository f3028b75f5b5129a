"""What is done to features before a head's first linear layer: nothing, standardising, length 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """Subtract a mean and divide by a scale, each one number a feature.

    Attributes:
        mean: (D,) float32.
        scale: (D,) float32, none of it 0.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return (features - self.mean) / self.scale

    def extra_repr(self) -> str:
        """Name D, for people."""
        return f"{len(self.mean)}"


class UnitLength(nn.Module):
    """Divide each row by its Euclidean length; a row of zeros stays."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return nn.functional.normalize(features, eps=1e-12)


_LAYERS: Mapping[str, Callable[[int], Sequence[nn.Module]]] = {
    "raw": lambda n_features: (),
    "standard": lambda n_features: (Standardise(n_features),),
    "l2": lambda n_features: (UnitLength(),),
}


def treatment_layers(features: str, n_features: int) -> Sequence[nn.Module]:
    """Build the layers of a treatment, at most one.

    Args:
        features: One of `featcache.config.TREATMENTS`.
        n_features: D.
    """
    return _LAYERS[features](n_features)


def folded(module: nn.Sequential) -> nn.Sequential:
    """Fold a leading `Standardise` into the linear layer behind it, in float64.

    Args:
        module: What `TrainedHead.module` gives.

    Returns:
        A Sequential of the same function that begins with that linear layer; the module itself
        where there is nothing to fold. A `UnitLength` stays, which is no linear map.
    """
    first, *others = module.children()
    if not isinstance(first, Standardise):
        return module
    linear, *rest = others
    assert isinstance(linear, nn.Linear), "a head has no other behind its treatment"
    weight = linear.weight.detach().double() / first.scale.double()
    bias = linear.bias.detach().double() - weight @ first.mean.double()
    merged = nn.utils.skip_init(nn.Linear, linear.in_features, linear.out_features)
    merged.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return nn.Sequential(merged, *rest).eval()
