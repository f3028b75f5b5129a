"""torchvision's classification models cut in front of their classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from featcache.backbones.batchnorm import has_batch_norm
from featcache.backbones.family import WEIGHTS_FILE, BackboneInfo, LoadedBackbone
from featcache.backbones.measure import Measured, measure
from featcache.backbones.sizes import require_exact_size
from featcache.backbones.state_dict import fill_backbone
from featcache.backbones.torchvision_weights import (
    Pretrained,
    fetch_pretrained,
    find_pretrained,
    list_pretrained,
)
from featcache.core.backbone_names import RANDOM
from featcache.core.random_state import seeded
from featcache.core.tensor_files import state_digest
from featcache.errors import WeightsError

_HEADS = ("classifier", "fc", "head", "heads")
_AUXILIARY = ("aux1", "aux2", "AuxLogits")
_HAS_INIT_FLAG = frozenset({"googlenet", "inception_v3"})
_ALLOCATORS = frozenset({torch.empty, torch.zeros, torch.ones})


def build_backbone(
    name: str, *, image_size: int, meta: bool = False, any_size: bool = False
) -> nn.Module:
    """Build a model without its classifier: (B, 3, H, W) -> (B, D), in evaluation mode.

    D is what enters the classifier's first linear layer; a norm or a pooling in front of that
    layer (convnext, maxvit) stays. A classifier without linear layers (squeezenet) goes whole,
    and D depends on the image size. Auxiliary classifiers go too.

    Args:
        name: A torchvision classification model.
        image_size: Vision transformers are built for it.
        meta: Without memory for the weights, on the meta device.
        any_size: Build a vision transformer also for a size that no published weights have.

    Raises:
        UsageError: If a vision transformer does not exist for `image_size`.
    """
    from torchvision import models

    options: dict[str, Any] = {}
    if name in _HAS_INIT_FLAG:
        # torchvision feeds its weights of these two through transform_input; so do we, always.
        options = {"init_weights": not meta, "transform_input": True}
    if name.startswith("vit_"):
        if not any_size:
            require_exact_size(name, image_size, _exact_sizes(name), weights=None)
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


def describe_model(name: str, image_size: int) -> BackboneInfo:
    """Measure a model and list its published weights.

    Raises:
        UsageError: If the model does not take this image size.
    """
    published = list_pretrained(name)
    return BackboneInfo(
        name=name,
        image_size=image_size,
        **_measured(name, image_size)._asdict(),
        weights=tuple(entry.name for entry in published),
        weights_on_disk=tuple(entry.name for entry in published if entry.file.exists()),
    )


def load_model(
    name: str, *, weights: str, seed: int, image_size: int, check_file: bool
) -> LoadedBackbone:
    """Build a frozen model with its weights, on the CPU; `load_backbone` says how."""
    entry = find_pretrained(name, weights)
    measured = _measured(name, image_size)
    note, told = "", {}
    if weights.lower() == RANDOM:
        with seeded(seed):
            module = build_backbone(name, image_size=image_size)
        label = f"random (seed {seed})"
    elif entry is not None:
        module = _published(entry, image_size, check_file=check_file)
        label = entry.name
    else:
        module = build_backbone(name, image_size=image_size, meta=True)
        note = fill_backbone(module, weights, name=name, ignored=_classifier_prefixes())
        label, told = Path(weights).name, {WEIGHTS_FILE: weights}
    return LoadedBackbone(
        name=name,
        module=module,
        n_features=measured.n_features,
        layer="input of the classifier",
        weights=label,
        weights_sha256=state_digest(module.state_dict()),
        has_batchnorm=has_batch_norm(module),
        published=entry,
        note=note,
        told=told,
    )


def _published(entry: Pretrained, image_size: int, *, check_file: bool) -> nn.Module:
    """Build the model of published weights and fill it."""
    name = entry.backbone
    module = build_backbone(name, image_size=image_size, meta=True)
    if name.startswith("vit_"):
        require_exact_size(name, image_size, _exact_sizes(name), weights=entry.name)
    file = fetch_pretrained(entry)
    if check_file:
        entry.require_intact()
    try:
        fill_backbone(module, file, name=name, ignored=_classifier_prefixes())
    except WeightsError:
        entry.require_intact()  # which says to delete a damaged file
        raise
    return module


@functools.cache
def _measured(name: str, image_size: int) -> Measured:
    module = build_backbone(name, image_size=image_size, meta=True)
    made_for = list_pretrained(name)[0].preprocess.crop or 0
    return measure(module, name=name, image_size=image_size, made_for=made_for)


def _exact_sizes(name: str) -> dict[str, int]:
    """The size that each of a vision transformer's published weights is for."""
    return {entry.name: entry.min_size for entry in list_pretrained(name)}


def _classifier_prefixes() -> tuple[str, ...]:
    """Beginnings of the state dict names that are no part of a backbone."""
    return tuple(f"{part}." for part in (*_HEADS, *_AUXILIARY))


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
