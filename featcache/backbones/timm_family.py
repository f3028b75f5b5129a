"""timm's models as a family; torch and timm are imported where they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.backbones.family import BackboneInfo, LoadedBackbone
from featcache.backbones.weights_file import existing_weights_file
from featcache.core.backbone_kinds import is_timm
from featcache.core.backbone_names import DEFAULT, RANDOM
from featcache.core.paths import file_and_part
from featcache.core.preprocess import Preprocess
from featcache.core.timm_names import check_timm_name

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.torchvision_weights import Pretrained


class Timm:
    """The family of timm's models, of repositories of the hub, and of folders that timm wrote."""

    runs_network = True
    usual_preprocess = "weights"
    is_known_by_files = False  # what the hub or a folder holds is looked at each time

    def owns(self, name: str) -> bool:
        """Take every name behind `timm:`."""
        return is_timm(name)

    def names(self) -> Sequence[str]:
        """List none: `timm_rows` lists those that somebody looks for."""
        return ()

    def check_weights(self, name: str, weights: str) -> None:
        """Refuse an unknown model, and a path without a file."""
        check_timm_name(name)
        if weights.upper() != DEFAULT and weights.lower() != RANDOM:
            existing_weights_file(weights if "://" in weights else file_and_part(weights)[0])

    def check_size(self, name: str, weights: str, image_size: int | None) -> None:
        """Take any size; the model itself is asked once timm is imported."""

    def usual_size(self, name: str) -> int:
        """Give the size that the weights were made for."""
        from featcache.backbones.timm_transforms import published_size
        from featcache.backbones.timm_weights import find_model

        return published_size(name, find_model(name).data)

    def describe(self, name: str, image_size: int) -> BackboneInfo:
        """Measure the model on torch's meta device."""
        from featcache.backbones.timm_models import describe_timm

        return describe_timm(name, image_size)

    def blank(self, name: str, image_size: int) -> nn.Module:
        """Build the model for any size that it can be built for."""
        from featcache.backbones.timm_models import build_network
        from featcache.backbones.timm_weights import find_model

        return build_network(find_model(name), image_size=image_size, meta=True)

    def build(
        self, name: str, *, weights: str, seed: int, image_size: int, check_file: bool
    ) -> LoadedBackbone:
        """Build the model and fill it with published, random or the user's weights."""
        from featcache.backbones.timm_models import load_timm

        return load_timm(name, weights=weights, seed=seed, image_size=image_size)

    def weights(self, name: str) -> Sequence[Pretrained]:
        """List none: they belong to timm."""
        return ()

    def preprocess(self, name: str, weights: str, image_size: int) -> Preprocess:
        """Take timm's own evaluation transform of the weights, of random ones too."""
        from featcache.backbones.timm_transforms import published_preprocess
        from featcache.backbones.timm_weights import find_model

        return published_preprocess(name, find_model(name).data, image_size)
