"""Convolution, bias, another branch and ReLU as one kernel of cuDNN's; BatchNorm folded away.

A GPU spends two thirds as much time on bias and ReLU of VGG16 as on its convolutions: each reads
and writes all activations again.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featcache.backbones.cast_weights import shallow_copy

VERSION = 1  # part of the numeric class: another one where features change

# cuDNN's fused kernels for larger ones are slow in channels_last: pytorch issue 68506.
_SIZES = ((1, 1), (3, 3))
_RELU_FUNCTIONS = (torch.relu, functional.relu, "relu", "relu_")
_ADDITIONS = (operator.add, torch.add)  # fx takes += for +


class FusedConv2d(nn.Module):
    """(B, C, H, W) -> (B, K, H', W'): relu(conv(batch) + other)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        if conv.bias is None:
            zeros = torch.zeros(conv.out_channels, device=conv.weight.device)
            conv.bias = nn.Parameter(zeros.to(conv.weight.dtype), requires_grad=False)

    def forward(self, batch: Tensor, other: Tensor | None = None) -> Tensor:
        """Convolve, add and cut off below zero; elsewhere than on CUDA in ordinary steps."""
        conv = self.conv
        # autocast knows nothing of cuDNN's own operations.
        batch = batch.to(conv.weight.dtype)
        if not batch.is_cuda:
            out = self.conv(batch)
            return torch.relu(out if other is None else out + other)
        assert not isinstance(conv.padding, str), "they are left as they are"
        how = (conv.stride, conv.padding, conv.dilation, conv.groups)
        if other is None:
            return torch.cudnn_convolution_relu(batch, conv.weight, conv.bias, *how)
        other = other.to(conv.weight.dtype)
        return torch.cudnn_convolution_add_relu(batch, conv.weight, other, 1.0, conv.bias, *how)


def can_fuse(part: nn.Module) -> bool:
    """Tell whether a module is a convolution that a ReLU behind it can be done with."""
    return (
        type(part) is nn.Conv2d
        and part.kernel_size in _SIZES
        and part.groups == 1
        and part.padding_mode == "zeros"
        and not isinstance(part.padding, str)
    )


def with_fused_convolutions(module: nn.Module) -> nn.Module:
    """Copy a backbone, BatchNorm folded into convolutions, ReLU done with those of 1x1 and 3x3.

    What nothing was done to is shared. Features differ by a few millionths of the largest.

    Args:
        module: (B, 3, H, W) -> (B, D), in eval mode, float32.

    Raises:
        ValueError: If there is nothing to fuse.
        Exception: Of torch.fx, if the backbone decides on its way what it computes.
    """
    surgery = _Surgery(fx.symbolic_trace(shallow_copy(module)))
    if not surgery.fold_batch_norms() + surgery.fuse_relus():
        raise ValueError("it has no convolution with BatchNorm or ReLU right behind it")
    return surgery.finished()


class _Call(NamedTuple):
    """The only place where a module is called, with one that takes what it gives."""

    node: fx.Node
    name: str
    part: Any


class _Surgery:
    """Replaces parts of a traced backbone."""

    def __init__(self, backbone: fx.GraphModule) -> None:
        self._backbone = backbone
        calls = (n.target for n in backbone.graph.nodes if n.op == "call_module")
        self._n_calls = Counter(calls)  # what is put in a part's place is called as often

    def finished(self) -> fx.GraphModule:
        self._backbone.graph.lint()
        self._backbone.recompile()
        self._backbone.delete_all_unused_submodules()
        return self._backbone

    def fold_batch_norms(self) -> int:
        n_folded = 0
        for node in list(self._backbone.graph.nodes):
            norm = self._part(node)
            if type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
                continue
            call = self._only_call(node.args[0])
            if call is None or type(call.part) is not nn.Conv2d:
                continue
            self._backbone.set_submodule(call.name, fuse_conv_bn_eval(call.part, norm))
            node.replace_all_uses_with(call.node)
            self._backbone.graph.erase_node(node)
            n_folded += 1
        return n_folded

    def fuse_relus(self) -> int:
        n_fused = 0
        graph = self._backbone.graph
        for relu in list(graph.nodes):
            found = self._convolution_behind(relu.args[0]) if self._is_relu(relu) else None
            if found is None:
                continue
            call, other, addition = found
            self._backbone.set_submodule(call.name, FusedConv2d(call.part))
            with graph.inserting_before(relu):
                inputs = (call.node.args[0],) if other is None else (call.node.args[0], other)
                fused = graph.call_module(call.name, inputs)
            relu.replace_all_uses_with(fused)
            for done in (relu, addition, call.node):
                if done is not None:
                    graph.erase_node(done)
            n_fused += 1
        return n_fused

    def _convolution_behind(
        self, source: object
    ) -> tuple[_Call, fx.Node | None, fx.Node | None] | None:
        """What a ReLU's input is: a convolution, what is added to it, and where; or None."""
        alone = self._only_call(source)
        if alone is not None and can_fuse(alone.part):
            return alone, None, None
        if not isinstance(source, fx.Node) or source.target not in _ADDITIONS:
            return None
        if len(source.users) > 1 or source.kwargs or len(source.args) != 2:
            return None
        for node, other in (source.args, source.args[::-1]):
            call = self._only_call(node)
            if call is None or not can_fuse(call.part) or other is node:
                continue
            if isinstance(other, fx.Node):
                return call, other, source
        return None

    def _only_call(self, node: object) -> _Call | None:
        part = self._part(node)
        if not isinstance(node, fx.Node) or part is None or len(node.users) > 1:
            return None
        name = str(node.target)
        return _Call(node, name, part) if self._n_calls[name] == 1 else None

    def _part(self, node: object) -> nn.Module | None:
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return self._backbone.get_submodule(str(node.target))

    def _is_relu(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return type(self._part(node)) is nn.ReLU
        return node.op in ("call_function", "call_method") and node.target in _RELU_FUNCTIONS
