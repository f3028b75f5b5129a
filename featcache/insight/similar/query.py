"""The features of a new image, made as those of a cache were."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from featcache.backbones.own import Backbone, given_backbone
from featcache.core.backbone_names import PIXELS
from featcache.core.reporting import NoteCallback
from featcache.deployment.backbone import build_named
from featcache.deployment.named_backbone import name_backbone_of_cache
from featcache.deployment.path_images import PathImages, split_of
from featcache.errors import DatasetError, FeatcacheError
from featcache.images.given_images import pixel_digest
from featcache.images.rules import ImageRules
from featcache.images.splits import UnreadableImageError
from featcache.store import Cache

if TYPE_CHECKING:
    from torch import Tensor, nn


_SMALL = 32  # px; in fewer, a photograph shows light and dark alone


@dataclass(frozen=True, eq=False)
class NewImage:
    """An image file, decoded by the rules of a cache.

    Attributes:
        path: Its file.
        image: It, in mode RGB.
        digests: By which a row is known to be the very image: of the file, and of the pixels.
    """

    path: Path
    image: Image.Image
    digests: Collection[bytes]


def opened_image(path: Path, cache: Cache) -> NewImage:
    """Read an image file as the cache's own images were read; no torch.

    Raises:
        DatasetError: If it cannot be read, with the reason.
    """
    images = PathImages(rules=ImageRules.of(cache.identity), root="", paths=(os.fspath(path),))
    try:
        image = images.decode(0)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except (UnreadableImageError, OSError) as err:
        if isinstance(err, FeatcacheError):
            raise
        raise DatasetError(
            f"{path} cannot be read as an image: {err}. Nothing was compared. Name another image, "
            f"or the id of a row."
        ) from err
    return NewImage(path, image, {digest, pixel_digest(np.array(image))})


def features_of(
    new: NewImage,
    cache: Cache,
    *,
    backbone: str | Backbone | nn.Module | None,
    weights: str | os.PathLike[str] | None,
    device: str,
    on_note: NoteCallback,
) -> Tensor:
    """Compute the features of an image, (1, D) float32, by the backbone of a cache.

    The backbone is built again, and refused if it is not the one that made the rows.

    Raises:
        FeatcacheError: Those of `featcache.similar`.
    """
    with nullcontext(None) if backbone is None else given_backbone(backbone) as name:
        named = name_backbone_of_cache(cache, backbone=name, weights=weights)
        if named.name == PIXELS:
            return _pixels(new, cache, on_note)
        from featcache.core.device import pick_device
        from featcache.deployment.image_features import ImageFeatures

        chosen = pick_device(device)
        on_note(f"device {chosen.told}")
        rebuilt = build_named(named, device=chosen.value, on_note=on_note)
        runner = ImageFeatures(
            rebuilt,
            device=chosen.value,
            batch_size=1,
            n_workers=0,
            compile="never",
            on_note=on_note,
        )
    [batch] = runner.batches(split_of([os.fspath(new.path)], rebuilt.rules), n_workers=0)
    if batch.features is None or not batch.features.isfinite().all():
        reason = batch.reasons.get(0, "its features are not finite")
        raise DatasetError(f"{new.path} has no features: {reason}. Nothing was compared.")
    return batch.features.cpu()


def _pixels(new: NewImage, cache: Cache, on_note: NoteCallback) -> Tensor:
    """Bring an image to the size of the rows, and to the numbers that pixels are compared by."""
    import torch

    height, width = next(iter(cache.splits.values())).features.shape[1:3]
    if min(height, width) < _SMALL < min(new.image.size):
        on_note(
            f"the rows of {cache.path.name} are the pixels of images of {width} by {height}, so "
            f"{new.path} was made as small: what is alike at that size need not be of one kind"
        )
    fitting = new.image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(fitting)).flatten().float()
    return pixels.div_(127.5).sub_(1)[None]
