"""torchvision's classification models cut in front of their classifier."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from featcache.backbones.options import require_exact_size, too_small
from featcache.backbones.torchvision_weights import list_pretrained

_HEADS = ("classifier", "fc", "head", "heads")
_AUXILIARY = ("aux1", "aux2", "AuxLogits")
_HAS_INIT_FLAG = frozenset({"googlenet", "inception_v3"})
_ALLOCATORS = frozenset({torch.empty, torch.zeros, torch.ones})


def build_backbone(name: str, *, image_size: int, meta: bool = False) -> nn.Module:
    """Build a model without its classifier: (B, 3, H, W) -> (B, D), in evaluation mode.

    D is what enters the classifier's first linear layer; a norm or a pooling in front of that
    layer (convnext, maxvit) stays. A classifier without linear layers (squeezenet) goes whole,
    and D depends on the image size. Auxiliary classifiers go too.

    Args:
        name: A torchvision classification model.
        image_size: Vision transformers are built for it.
        meta: Without memory for the weights, on the meta device.

    Raises:
        UsageError: If a vision transformer does not exist for `image_size`.
    """
    from torchvision import models

    options: dict[str, Any] = {}
    if name in _HAS_INIT_FLAG:
        # torchvision feeds its weights of these two through transform_input; so do we, always.
        options = {"init_weights": not meta, "transform_input": True}
    if name.startswith("vit_"):
        sizes = {entry.name: entry.min_size for entry in list_pretrained(name)}
        require_exact_size(name, image_size, sizes, weights=None)
        options = {"image_size": image_size}
    if meta:
        with _AllocateOnMeta():
            model = models.get_model(name, weights=None, **options)
        model.to("meta")
    else:
        model = models.get_model(name, weights=None, **options)
    _cut(model)
    backbone: nn.Module = model.eval().requires_grad_(False)
    return backbone


def classifier_prefixes() -> tuple[str, ...]:
    """Beginnings of the state dict names that are no part of a backbone."""
    return tuple(f"{part}." for part in (*_HEADS, *_AUXILIARY))


def n_features(
    backbone: nn.Module,
    *,
    name: str,
    image_size: int,
    counter: FlopCounterMode | None = None,
) -> int:
    """Push one empty image through a backbone on the meta device and count its features.

    Args:
        backbone: From `build_backbone(..., meta=True)`.
        name: Names the backbone in messages.
        image_size: Side of the image in pixels.
        counter: Counts the work of this one pass.

    Raises:
        UsageError: If the backbone does not take this size; names the smallest that it takes.
    """
    try:
        with counter or contextlib.nullcontext():
            return int(_meta_forward(backbone, image_size).shape[1])
    except (RuntimeError, AssertionError, ValueError) as err:
        made_for = list_pretrained(name)[0].preprocess.crop or 0
        smallest = _smallest_size(backbone, made_for)
        raise too_small(name, image_size, smallest=smallest, made_for=made_for) from err


class _AllocateOnMeta(TorchFunctionMode):
    """Send allocations of parameters and buffers to the meta device.

    `torch.device("meta")` would take along the arithmetic of regnet's constructor, which needs
    real numbers.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ALLOCATORS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _cut(model: nn.Module) -> None:
    head_name = next(h for h in _HEADS if hasattr(model, h))
    head = getattr(model, head_name)
    parts = list(head.children())
    i_linear = next((i for i, part in enumerate(parts) if isinstance(part, nn.Linear)), 0)
    # Kept parts keep their place, and so their names in the state dict.
    setattr(model, head_name, nn.Sequential(*parts[:i_linear], nn.Flatten(1)))
    for auxiliary in _AUXILIARY:
        if hasattr(model, auxiliary):
            setattr(model, auxiliary, None)


def _meta_forward(backbone: nn.Module, image_size: int) -> Tensor:
    with torch.no_grad():
        out: Tensor = backbone(torch.empty(1, 3, image_size, image_size, device="meta"))
    return out


def _smallest_size(backbone: nn.Module, works: int) -> int:
    fails = 0
    while works - fails > 1:
        middle = (works + fails) // 2
        try:
            _meta_forward(backbone, middle)
            works = middle
        except (RuntimeError, AssertionError, ValueError):
            fails = middle
    return works
