"""What backbones are and cost, known without their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from featcache.backbones.families import family_of
from featcache.backbones.family import BackboneInfo
from featcache.config import ExtractSpec
from featcache.core.arguments import count
from featcache.core.backbone_names import backbone_name, backbone_names
from featcache.core.preprocess import MOST_PIXELS
from featcache.errors import UsageError

if TYPE_CHECKING:
    from featcache.backbones.layers import Layer

__all__ = ["BackboneInfo", "describe_backbone", "list_backbones"]


def describe_backbone(
    name: str,
    image_size: int | None = ExtractSpec.image_size,
    *,
    layer: str | None = ExtractSpec.layer,
    pool: str = ExtractSpec.pool,
) -> BackboneInfo:
    """Measure a backbone on torch's meta device, without allocating or fetching its weights.

    Raises:
        UnknownNameError: If there is no such backbone.
        UsageError: If the backbone does not take this image size.

    Example:
        >>> describe_backbone("vgg16", 224).n_features
        25088
    """
    name = backbone_name(name)
    family = family_of(name)
    size = _size(image_size) or family.usual_size(name)
    info = family.describe(name, size)
    if layer is None and pool == ExtractSpec.pool:
        return info
    from featcache.backbones.taking import Asked, info_of_taken  # it imports torch

    return info_of_taken(info, Asked(layer, pool), lambda side: family.blank(name, side))


def list_backbones(
    image_size: int | None = ExtractSpec.image_size, *, names: Sequence[str] | None = None
) -> Iterator[BackboneInfo]:
    """Describe backbones one after the other.

    A row takes up to a second, all 81 about half a minute: show each when it comes.

    Args:
        image_size: Side of the square that enters the backbone, in pixels; a backbone that does not
            take it is described at the size of its DEFAULT weights.
        names: Which; None means all.
    """
    image_size = _size(image_size)
    for name in backbone_names() if names is None else names:
        try:
            yield describe_backbone(name, image_size)
        except UsageError:
            default = family_of(name).weights(name)[0]
            yield describe_backbone(name, default.preprocess.crop or image_size)


def list_layers(name: str, image_size: int | None = ExtractSpec.image_size) -> list[Layer]:
    """List the parts of a backbone whose output can be taken as features, in their order.

    Raises:
        UnknownNameError: If there is no such backbone.
        UsageError: If it runs no network, or does not take this image size.
    """
    name = backbone_name(name)
    family = family_of(name)
    size = _size(image_size) or family.usual_size(name)
    from featcache.backbones.layers import find_layers  # it imports torch

    found = find_layers(lambda side: family.blank(name, side), size)
    return [layer for layer in found.values() if not layer.refusal]


def _size(image_size: int | None) -> int | None:
    """Take what --image-size takes; None is auto."""
    if image_size is None:
        return None
    return count("--image-size", image_size, most=MOST_PIXELS)
