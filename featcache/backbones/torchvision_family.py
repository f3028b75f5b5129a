"""torchvision's classification models as a family; torch is imported where it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.backbones.family import BackboneInfo, LoadedBackbone
from featcache.backbones.sizes import check_size
from featcache.backbones.weights_file import existing_weights_file
from featcache.config import NOTEBOOK_SIZE
from featcache.core.backbone_names import RANDOM, published_weights, torchvision_names
from featcache.core.paths import file_and_part
from featcache.core.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.torchvision_weights import Pretrained


class Torchvision:
    """The family of torchvision's classification models, cut in front of their classifier."""

    runs_network = True
    is_known_by_files = True
    usual_preprocess = "notebook"

    def owns(self, name: str) -> bool:
        """Take the names of the list."""
        return name in self.names()

    def names(self) -> Sequence[str]:
        """List all classification models."""
        return torchvision_names()

    def check_weights(self, name: str, weights: str) -> None:
        """Refuse a name that torchvision does not publish, and a path without a file."""
        if published_weights(name, weights) is None and weights.lower() != RANDOM:
            existing_weights_file(weights if "://" in weights else file_and_part(weights)[0])

    def check_size(self, name: str, weights: str, image_size: int | None) -> None:
        """Refuse what torchvision's sources, or a table, say does not fit."""
        check_size(name, weights, image_size or NOTEBOOK_SIZE)

    def usual_size(self, name: str) -> int:
        """Give the notebook's."""
        return NOTEBOOK_SIZE

    def describe(self, name: str, image_size: int) -> BackboneInfo:
        """Measure the model on torch's meta device."""
        from featcache.backbones.torchvision_models import describe_model

        return describe_model(name, image_size)

    def blank(self, name: str, image_size: int) -> nn.Module:
        """Build the model for any size."""
        from featcache.backbones.torchvision_models import build_backbone

        return build_backbone(name, image_size=image_size, meta=True, any_size=True)

    def build(
        self, name: str, *, weights: str, seed: int, image_size: int, check_file: bool
    ) -> LoadedBackbone:
        """Build the model and fill it with published, random or the user's weights."""
        from featcache.backbones.torchvision_models import load_model

        return load_model(
            name, weights=weights, seed=seed, image_size=image_size, check_file=check_file
        )

    def weights(self, name: str) -> Sequence[Pretrained]:
        """List what torchvision publishes."""
        from featcache.backbones.torchvision_weights import list_pretrained

        return list_pretrained(name)

    def preprocess(self, name: str, weights: str, image_size: int) -> Preprocess:
        """Take the transform that torchvision evaluated the weights with."""
        from featcache.backbones.torchvision_weights import weights_preprocess

        return weights_preprocess(name, weights, image_size)
