"""The layers of a head: an MLP on features; and its L1 penalty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from featcache.config import HeadSpec
from featcache.core.memory import free_memory
from featcache.errors import UsageError, counted
from featcache.heads.treatment import treatment_layers
from featcache.store import human_bytes

_BYTES_PER_PARAMETER = 16  # float32: the parameter, its gradient, Adam's two moments


def build_head(
    spec: HeadSpec, *, n_features: int, n_classes: int, seed: int, features: str = "raw"
) -> nn.Sequential:
    """Build a head with torch's default initial weights: Linear, ReLU, Dropout, ..., Linear.

    Args:
        spec: Its shape and dropout.
        n_features: D.
        n_classes: K.
        seed: Seeds the initial weights; the global random state stays as it is.
        features: Their treatment, a layer before all others unless it is "raw".

    Returns:
        (B, D) float32 -> (B, K) logits.

    Example:
        >>> head = build_head(HeadSpec(reg="dropout"), n_features=960, n_classes=10, seed=0)
        >>> [type(layer).__name__ for layer in head]
        ['Linear', 'ReLU', 'Dropout', 'Linear', 'ReLU', 'Dropout', 'Linear']
    """
    layers: list[nn.Module] = [*treatment_layers(features, n_features)]
    width = n_features
    generator = torch.Generator().manual_seed(seed)
    for i, n_hidden in enumerate(spec.hidden):
        layers += [_linear(width, n_hidden, generator), nn.ReLU()]
        if spec.dropout:
            layers.append(nn.Dropout(spec.dropout[i]))
        width = n_hidden
    layers.append(_linear(width, n_classes, generator))
    return nn.Sequential(*layers)


def _linear(n_inputs: int, n_outputs: int, generator: torch.Generator) -> nn.Linear:
    """Draw what `nn.Linear` draws, from a generator that no other thread draws from."""
    # Whatever device or dtype the user has made torch's default.
    layer: nn.Linear = nn.utils.skip_init(
        nn.Linear, n_inputs, n_outputs, device="cpu", dtype=torch.float32
    )
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(n_inputs)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def n_parameters(spec: HeadSpec, *, n_features: int, n_classes: int) -> int:
    """Count the weights and biases of a head."""
    return sum((a + 1) * b for a, b in pairwise((n_features, *spec.hidden, n_classes)))


def require_room(spec: HeadSpec, *, n_features: int, n_classes: int, device: str) -> None:
    """Refuse a head whose training cannot fit, before the system ends the process for it.

    Raises:
        UsageError: With what it needs and what is free.
    """
    n = n_parameters(spec, n_features=n_features, n_classes=n_classes)
    free, kind = free_memory(device)
    if n * _BYTES_PER_PARAMETER > free:
        raise UsageError(
            f"A head with --hidden {','.join(map(str, spec.hidden))} on "
            f"{counted(n_features, 'feature')} has {n} parameters. To train them takes "
            f"{human_bytes(n * _BYTES_PER_PARAMETER)} at least, but {human_bytes(free)} of {kind} "
            f"are free. Nothing was started. Use a smaller --hidden."
        )


def l1_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Sum |p| over all parameters, biases among them, as the notebook's penalty does.

    The notebook also sums over its frozen backbone: a constant in the logged loss, without
    gradient. Here the head is all there is, so that constant is missing. `training/module.py`
    multiplies the sum by `--l1` and adds it to the training loss. A sweep has a sum of its own
    (`training/sweeps/head_bank.py`), for all heads at once and with its gradient. So has the
    end-to-end side of parity (`notebook/end_to_end.py`), which knows nothing of this file.
    """
    return torch.stack([p.abs().sum() for p in parameters]).sum()
