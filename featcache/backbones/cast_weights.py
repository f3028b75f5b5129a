"""Weights cast once to the half precision in which autocast would cast them in every batch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]
"""What computes the features of a batch."""

# What autocast computes in half precision, whatever the type of its inputs:
# https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float16
_CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def with_weights_cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a backbone with its convolution and linear weights cast; other tensors are shared.

    Under autocast to `dtype` the copy gives the bits of the backbone itself: autocast would cast
    the same tensors, in every batch, since it remembers only those that are trained. Layers of a
    class derived from torch's may do other things with their weights, and keep theirs.

    Args:
        module: In eval mode.
        dtype: `torch.bfloat16` or `torch.float16`.
    """
    backbone = shallow_copy(module)
    for part in backbone.modules():
        if type(part) in _CAST:
            for name, tensor in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(tensor.to(dtype), requires_grad=False))
    return backbone


def shallow_copy(module: nn.Module) -> nn.Module:
    """Copy a module and all its parts, but share parameters and buffers with it."""
    shared = {id(t): t for t in itertools.chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, shared)
