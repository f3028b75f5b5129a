"""Frozen backbones by name, ready to run with their weights and provenance."""

from __future__ import annotations

from featcache.backbones.families import family_of
from featcache.backbones.family import LoadedBackbone
from featcache.backbones.taking import Asked, take
from featcache.config import ExtractSpec
from featcache.core.backbone_names import backbone_name
from featcache.core.plain_torch import plain_torch

__all__ = ["LoadedBackbone", "load_backbone"]


@plain_torch()
def load_backbone(
    name: str,
    *,
    weights: str = ExtractSpec.weights,
    layer: str | None = ExtractSpec.layer,
    pool: str = ExtractSpec.pool,
    seed: int = ExtractSpec.seed,
    image_size: int | None = ExtractSpec.image_size,
    check_file: bool = True,
) -> LoadedBackbone:
    """Build a frozen backbone with its weights, on the CPU.

    Args:
        name: As in `backbone_names`.
        weights: "DEFAULT", one of torchvision's names, "random", or a path to a file that holds a
            state dict of the model or of the backbone alone; "FILE#PART" takes one of several.
        layer: The part whose output is taken; None is what enters the classifier.
        pool: How the output becomes a row, as in `ExtractSpec`.
        seed: Seeds "random"; the global generators stay as they are.
        image_size: Side of the square that enters the backbone, in pixels; None is the usual one.
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
    family = family_of(name)
    size = family.usual_size(name) if image_size is None else image_size
    loaded = family.build(name, weights=weights, seed=seed, image_size=size, check_file=check_file)
    asked = Asked(layer, pool)
    if asked.is_usual:
        return loaded
    return take(loaded, asked, lambda side: family.blank(name, side), size)
