"""Frozen backbones by name: what they cost, and ready to run with their weights and provenance."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from featcache.backbones.batchnorm import has_batch_norm
from featcache.backbones.options import require_exact_size
from featcache.backbones.state_dict import fit_state_dict, read_state_dicts
from featcache.backbones.torchvision_models import (
    build_backbone,
    classifier_prefixes,
    n_features,
)
from featcache.backbones.torchvision_weights import (
    Pretrained,
    fetch_pretrained,
    find_pretrained,
    list_pretrained,
    require_published,
    weights_preprocess,
)
from featcache.backbones.unwrapping import find_backbone
from featcache.config import ExtractSpec
from featcache.core.arguments import count
from featcache.core.backbone_names import (
    PIXELS,
    RANDOM,
    backbone_name,
    backbone_names,
    check_weights_name,
)
from featcache.core.paths import file_and_part
from featcache.core.plain_torch import plain_torch
from featcache.core.preprocess import MOST_PIXELS
from featcache.core.random_state import seeded
from featcache.core.tensor_files import state_digest
from featcache.errors import UsageError, WeightsError

__all__ = [
    "Backbone",
    "BackboneInfo",
    "describe_backbone",
    "list_backbones",
    "load_backbone",
    "weights_preprocess",
]

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class BackboneInfo:
    """What a backbone is and costs at one image size, known without its weights.

    Attributes:
        name: As in `backbone_names`.
        image_size: Side of the square that enters the backbone, in pixels.
        n_features: Numbers per image that leave the backbone.
        n_params: Parameters of the backbone, without the classifier.
        gflop: Work per image, 1 MAC = 2 FLOP: convolutions, linear layers, attention products.
        activation_bytes_per_image: Largest input plus output of one layer, in float32.
        weights: torchvision's weights, DEFAULT first.
        weights_on_disk: Those whose file is on this machine.
    """

    name: str
    image_size: int
    n_features: int
    n_params: int
    gflop: float
    activation_bytes_per_image: int
    weights: tuple[str, ...]
    weights_on_disk: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A backbone that is ready to run, and where its weights come from.

    Attributes:
        name: As in `backbone_names`.
        module: (B, 3, H, W) -> (B, D), in evaluation mode, without gradients; None for "pixels".
        n_features: D; for "pixels" the 3 * H * W numbers that the head sees.
        layer: Which layer's output the features are.
        weights: For people: "IMAGENET1K_V1", "random (seed 0)", or a file's name.
        note: What stood around the weights in their file, and was left out; mostly empty.
        weights_sha256: `state_digest` of the backbone, without classifier and auxiliary heads.
        has_batchnorm: Whether `adapt_batch_norm` has something to adapt.
        published: What torchvision says of its weights; None for those of the user.
    """

    name: str
    module: nn.Module | None
    n_features: int
    layer: str
    weights: str
    weights_sha256: str
    has_batchnorm: bool
    note: str = ""
    published: Pretrained | None = None

    def require_published(self) -> None:
        """Compare the file of published weights with its digest, where `load_backbone` did not.

        Raises:
            WeightsError: If its bytes are not the published ones.
        """
        if self.published is not None:
            require_published(self.published)


def describe_backbone(name: str, image_size: int = ExtractSpec.image_size) -> BackboneInfo:
    """Measure a backbone on torch's meta device, without allocating or fetching its weights.

    Raises:
        UnknownNameError: If there is no such backbone.
        UsageError: If the backbone does not take this image size.

    Example:
        >>> describe_backbone("vgg16", 224).n_features
        25088
    """
    name = backbone_name(name)
    image_size = count("--image-size", image_size, most=MOST_PIXELS)
    if name == PIXELS:
        n_pixels = 3 * image_size**2
        return BackboneInfo(name, image_size, n_pixels, 0, 0.0, n_pixels * _FLOAT_BYTES, (), ())
    measured = _measure(name, image_size)
    published = list_pretrained(name)
    return BackboneInfo(
        name=name,
        image_size=image_size,
        n_features=measured.n_features,
        n_params=measured.n_params,
        gflop=measured.gflop,
        activation_bytes_per_image=measured.activation_bytes_per_image,
        weights=tuple(entry.name for entry in published),
        weights_on_disk=tuple(entry.name for entry in published if entry.file.exists()),
    )


class _Measured(NamedTuple):
    n_features: int
    n_params: int
    gflop: float
    activation_bytes_per_image: int


@functools.cache
def _measure(name: str, image_size: int) -> _Measured:
    backbone = build_backbone(name, image_size=image_size, meta=True)
    layer_sizes: list[int] = []
    for layer in backbone.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, x, y: layer_sizes.append(_n_values(x, y)))
    counter = FlopCounterMode(display=False)
    width = n_features(backbone, name=name, image_size=image_size, counter=counter)
    return _Measured(
        n_features=width,
        n_params=sum(p.numel() for p in backbone.parameters()),
        gflop=counter.get_total_flops() / 1e9,
        activation_bytes_per_image=max(layer_sizes) * _FLOAT_BYTES,
    )


def list_backbones(
    image_size: int = ExtractSpec.image_size, *, names: Sequence[str] | None = None
) -> Iterator[BackboneInfo]:
    """Describe backbones one after the other.

    A row takes up to a second, all 81 about half a minute: show each when it comes.

    Args:
        image_size: Side of the square that enters the backbone, in pixels; a backbone that does not
            take it is described at the size of its DEFAULT weights.
        names: Which; None means all.
    """
    image_size = count("--image-size", image_size, most=MOST_PIXELS)
    for name in backbone_names() if names is None else names:
        try:
            yield describe_backbone(name, image_size)
        except UsageError:
            yield describe_backbone(name, list_pretrained(name)[0].preprocess.crop or image_size)


@plain_torch()
def load_backbone(
    name: str,
    *,
    weights: str = ExtractSpec.weights,
    seed: int = ExtractSpec.seed,
    image_size: int = ExtractSpec.image_size,
    check_file: bool = True,
) -> Backbone:
    """Build a frozen backbone with its weights, on the CPU.

    Args:
        name: As in `backbone_names`.
        weights: "DEFAULT", one of torchvision's names, "random", or a path to a file that holds a
            state dict of the model or of the backbone alone; "FILE#PART" takes one of several.
        seed: Seeds "random"; the global generators stay as they are.
        image_size: Side of the square that enters the backbone, in pixels.
        check_file: Compare a file of published weights with its digest. Without, a cache that is
            there already shows by `weights_sha256` that they are right.

    Raises:
        UnknownNameError: If there is no such backbone, or no such weights for it.
        UsageError: If the backbone does not take this image size.
        WeightsUnavailableError: If torchvision's weights are neither here nor reachable.
        WeightsError: If the weights are damaged, do not fit, or hold NaN.
        UnsafeFileError: If reading the file would run code.

    Example:
        >>> load_backbone("resnet18", weights="random").n_features
        512
    """
    name = backbone_name(name)
    check_weights_name(name, weights)
    if name == PIXELS:
        return _pixels(image_size)
    entry = find_pretrained(name, weights)
    width = _measure(name, image_size).n_features
    note = ""
    if weights.lower() == RANDOM:
        backbone, label = _random_backbone(name, seed, image_size), f"random (seed {seed})"
    else:
        backbone = build_backbone(name, image_size=image_size, meta=True)
        if entry is not None and name.startswith("vit_"):
            sizes = {entry.name: entry.min_size}
            require_exact_size(name, image_size, sizes, weights=entry.name)
        # A URL must come as it is: as a path it loses a slash.
        file = fetch_pretrained(entry) if entry else weights
        if entry is not None and check_file:
            require_published(entry)
        try:
            note = _fill(backbone, file, name)
        except WeightsError:
            if entry is not None:
                require_published(entry)  # which says to delete a damaged file
            raise
        label = entry.name if entry else Path(weights).name
    return Backbone(
        name=name,
        module=backbone,
        n_features=width,
        layer="input of the classifier",
        weights=label,
        weights_sha256=state_digest(backbone.state_dict()),
        has_batchnorm=has_batch_norm(backbone),
        published=entry,
        note=note,
    )


def _pixels(image_size: int) -> Backbone:
    return Backbone(
        name=PIXELS,
        module=None,
        n_features=3 * image_size**2,
        layer="image",
        weights="none",
        weights_sha256=hashlib.sha256(b"").hexdigest(),
        has_batchnorm=False,
    )


def _random_backbone(name: str, seed: int, image_size: int) -> nn.Module:
    with seeded(seed):
        return build_backbone(name, image_size=image_size)


def _fill(backbone: nn.Module, path: str | Path, name: str) -> str:
    """Load weights; what stood around them in the file, for people."""
    own = backbone.state_dict()
    file, part = (path, "") if "://" in str(path) else file_and_part(str(path))
    found, others = find_backbone(read_state_dicts(file), own, part=part, source=str(path))
    told = found.told(others)
    source = f"{path} ({told})" if told else str(path)
    fitted = fit_state_dict(
        found.state, own, ignored=classifier_prefixes(), source=source, backbone=name
    )
    own.update(fitted)  # keeps the versions in own._metadata, which mnasnet insists on
    backbone.load_state_dict(own, assign=True)
    backbone.requires_grad_(requires_grad=False)
    left = [n for n, t in (*backbone.named_parameters(), *backbone.named_buffers()) if t.is_meta]
    if left:
        raise WeightsError(
            f"{path} does not fill {name}: {', '.join(left)} are no part of its state dict. "
            f"Nothing was loaded."
        )
    return told


def _n_values(inputs: tuple[Tensor, ...], output: Tensor) -> int:
    tensors = [t for t in (*inputs, output) if isinstance(t, Tensor)]
    return sum(t.numel() for t in tensors)
