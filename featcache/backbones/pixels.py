"""The backbone "pixels", which runs no network: the images themselves are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.backbones.family import BackboneInfo, LoadedBackbone
from featcache.config import NOTEBOOK_SIZE
from featcache.core.backbone_names import DEFAULT, PIXELS
from featcache.core.preprocess import Preprocess
from featcache.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.torchvision_weights import Pretrained

_FLOAT_NBYTES = 4


class Pixels:
    """The family of one backbone without weights; a head sees 3 * H * W numbers of an image."""

    runs_network = False
    is_known_by_files = True
    usual_preprocess = "notebook"

    def owns(self, name: str) -> bool:
        """Take the one name."""
        return name == PIXELS

    def names(self) -> Sequence[str]:
        """List the one name."""
        return [PIXELS]

    def check_weights(self, name: str, weights: str) -> None:
        """Refuse any weights."""
        if weights not in (DEFAULT, "none"):
            raise UsageError(f"Backbone {name!r} has no weights, but --weights is {weights!r}.")

    def check_size(self, name: str, weights: str, image_size: int | None) -> None:
        """Take any size."""

    def usual_size(self, name: str) -> int:
        """Give the notebook's."""
        return NOTEBOOK_SIZE

    def describe(self, name: str, image_size: int) -> BackboneInfo:
        """Count the numbers of an image."""
        n_pixels = 3 * image_size**2
        return BackboneInfo(name, image_size, n_pixels, 0, 0.0, n_pixels * _FLOAT_NBYTES, (), ())

    def blank(self, name: str, image_size: int) -> nn.Module:
        """Refuse: there is no network."""
        raise UsageError(f"Backbone {name!r} runs no network, so it has no layers.")

    def build(
        self, name: str, *, weights: str, seed: int, image_size: int, check_file: bool
    ) -> LoadedBackbone:
        """Make a backbone without a module."""
        self.check_weights(name, weights)
        return LoadedBackbone(
            name=name,
            module=None,
            n_features=3 * image_size**2,
            layer="image",
            weights="none",
            weights_sha256=hashlib.sha256(b"").hexdigest(),
            has_batchnorm=False,
        )

    def weights(self, name: str) -> Sequence[Pretrained]:
        """List none."""
        return ()

    def preprocess(self, name: str, weights: str, image_size: int) -> Preprocess:
        """Refuse: a transform belongs to weights."""
        raise UsageError(f"Backbone {name!r} has no weights, so no transform. Use notebook's.")
