"""The image sizes that torchvision's backbones take, known before torch is imported.

A backbone that is not here is asked itself, on torch's meta device, when it is built.
"""

from __future__ import annotations

from collections.abc import Mapping

from featcache.core.backbone_names import published_weights, sizes_of_weights
from featcache.errors import UsageError

# Families that take every side from the first on, in pixels, and the one that they are made for
# (tests/backbones/test_sizes.py measures it). Families that are not here take any, or have windows
# (maxvit, swin): those are asked themselves.
_SMALLEST: Mapping[str, tuple[int, int]] = {
    "alexnet": (63, 224),
    "convnext": (32, 224),
    "densenet": (29, 224),
    "googlenet": (15, 224),
    "inception_v3": (75, 299),
    "squeezenet1_0": (21, 224),
    "squeezenet1_1": (17, 224),
    "vgg": (32, 224),
}


def check_size(backbone: str, weights: str, image_size: int) -> None:
    """Refuse a size that a torchvision model, or its published weights, is known not to take.

    Args:
        backbone: A torchvision classification model.
        weights: As typed.
        image_size: Side of the backbone's input, in pixels.

    Raises:
        UsageError: With the size to use.
        UnknownNameError: If the model has no weights of that name.
    """
    if sizes := _exact_sizes(backbone):
        published = published_weights(backbone, weights)
        require_exact_size(backbone, image_size, sizes, weights=published)
    for family, (smallest, made_for) in _SMALLEST.items():
        if backbone.startswith(family) and image_size < smallest:
            raise too_small(backbone, image_size, smallest=smallest, made_for=made_for)


def require_exact_size(
    backbone: str, image_size: int, sizes: Mapping[str, int], *, weights: str | None
) -> None:
    """Refuse a size that a vision transformer, or its published weights, was not made for.

    Args:
        backbone: A vision transformer.
        image_size: Side of its input, in pixels.
        sizes: That of each of its published weights, the default ones first.
        weights: Their name, or "DEFAULT"; None for others.

    Raises:
        UsageError: With the size to use.
    """
    known = sorted(set(sizes.values()))
    if image_size not in known:
        raise UsageError(
            f"The backbone {backbone} takes images of {' or '.join(map(str, known))} px exactly "
            f"(its position embedding has one size), not of {image_size} px. Nothing was started. "
            f"Use --image-size {known[0]}."
        )
    if weights is None:
        return
    name = weights if weights in sizes else next(iter(sizes))
    if image_size != sizes[name]:
        raise UsageError(
            f"Weights {name} of {backbone} take images of {sizes[name]} px exactly, not of "
            f"{image_size} px. Nothing was started. Use --image-size {sizes[name]}, or other "
            f"weights: featcache backbones lists them."
        )


def too_small(backbone: str, image_size: int, *, smallest: int, made_for: int) -> UsageError:
    """Say which sizes a backbone takes."""
    return UsageError(
        f"The backbone {backbone} cannot take images of {image_size} px: the smallest it takes is "
        f"{smallest} px, and it is made for {made_for} px. Nothing was started. Use "
        f"--image-size {smallest if image_size < smallest else made_for}."
    )


def _exact_sizes(backbone: str) -> Mapping[str, int]:
    """Give the size of each of a vision transformer's weights; empty for other models.

    Empty too where torchvision's sources name no size: then the backbone itself is asked.
    """
    if not backbone.startswith("vit_"):
        return {}
    sizes = {name: side for name, side in sizes_of_weights(backbone).items() if side is not None}
    return sizes if len(sizes) == len(sizes_of_weights(backbone)) else {}
