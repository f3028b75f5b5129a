"""The families of backbones there are; no torch."""

from __future__ import annotations

from featcache.backbones.family import BackboneFamily
from featcache.backbones.own import Own
from featcache.backbones.pixels import Pixels
from featcache.backbones.timm_family import Timm
from featcache.backbones.torchvision_family import Torchvision
from featcache.core.backbone_names import backbone_name

# In the order in which they are listed. Their names stand in core/backbone_names.py too, where
# those who know no backbones look them up.
FAMILIES: tuple[BackboneFamily, ...] = (Pixels(), Torchvision(), Timm(), Own())


def family_of(name: str) -> BackboneFamily:
    """Find the family of a backbone.

    Raises:
        UnknownNameError: If there is no such backbone, with the nearest three.
    """
    name = backbone_name(name)
    return next(family for family in FAMILIES if family.owns(name))


def check_backbone_options(backbone: str, weights: str, image_size: int | None) -> None:
    """Refuse weights that are not there and a size that the backbone does not take.

    Args:
        backbone: As in `backbone_names`.
        weights: As typed.
        image_size: Side of the backbone's input, in pixels; None is the usual one.

    Raises:
        UnknownNameError: If there is no such backbone, or no such weights for it.
        UsageError: If the size cannot be.
        FeatcacheError: Those of `BackboneFamily.check_weights`.
    """
    family = family_of(backbone)
    family.check_weights(backbone, weights)
    family.check_size(backbone, weights, image_size)
