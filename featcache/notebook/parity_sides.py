"""What both sides of parity share, as a cache says it: its images, its weights, its rows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from featcache.backbones.load import load_backbone
from featcache.config import ExtractSpec, HeadSpec, ParitySpec, TrainSpec
from featcache.errors import MismatchError
from featcache.extraction.reference_rows import require_its_function
from featcache.extraction.whereabouts import dataset_of
from featcache.features.listing import listing_difference
from featcache.features.rows import preprocess_of
from featcache.images.datasets import load_dataset
from featcache.images.rules import ImageRules
from featcache.images.splits import Dataset
from featcache.images.stat_index import KnownFiles
from featcache.notebook.parity_training import Sides
from featcache.store import (
    Cache,
    named_backbone,
    open_cache,
    read_state,
    read_trunk_statistics,
    require_fields,
)


def open_sides(
    path: Path,
    *,
    dataset: str | Dataset | None,
    spec: ExtractSpec,
    head: HeadSpec,
    train: TrainSpec,
    asked: ParitySpec,
) -> Sides:
    """Open a cache, and load the images and the weights that it was made from.

    Args:
        path: The cache.
        dataset: Where its images are now; None is where they were.
        spec: Says where data lies, and the weights.
        head: The head that both sides train.
        train: How they do.
        asked: How long, and on how many rows.

    Raises:
        MismatchError: If images or weights are not those of the cache.
    """
    opened = open_cache(path)
    return Sides(
        cache=opened,
        dataset=_images(opened, dataset, data_dir=spec.data_dir),
        backbone=_backbone_state(opened, weights=spec.weights),
        preprocess=preprocess_of(opened),
        head=head,
        lr=train.lr,
        batch_size=train.batch_size,
        epochs=asked.epochs,
        limit=asked.limit,
    )


def _images(cache: Cache, dataset: str | Dataset | None, *, data_dir: str) -> Dataset:
    """Load the images that a cache was made from."""
    require_fields(cache.path, {**cache.identity, **cache.provenance}, "dataset_sha256", "limit")
    named = dataset or dataset_of(cache.path, read_state(cache.path).manifest)
    listing = load_dataset(named, data_dir=data_dir)
    images = listing.following(ImageRules.of(cache.identity)).limited(cache.provenance.limit)
    known = KnownFiles()
    digest, images = images.identified(known=known)
    known.save()
    if digest != cache.identity["dataset_sha256"]:
        difference = listing_difference(listing, cache) or "the bytes of its images differ"
        raise MismatchError(
            f"{cache.path.name} was made from other images than those of {listing.name} "
            f"(dataset_sha256 differs): {difference}. Nothing was compared. Say where its images "
            f"are with --dataset, or leave --cache out: parity then extracts what it needs."
        )
    return images


def _backbone_state(cache: Cache, *, weights: str) -> dict[str, Tensor]:
    """Load the backbone's weights, with the cache's running statistics where it adapted them."""
    image_size = preprocess_of(cache).out_size[0]
    said = {**cache.identity, **cache.provenance}
    require_fields(cache.path, said, "weights", "weights_sha256")
    made_with = cache.provenance.weights
    if made_with.startswith("random") and weights == ExtractSpec.weights:
        weights = "random"  # no other are meant, and nothing needs to be fetched to refuse them
    name = named_backbone(cache.identity, cache.provenance)
    backbone = load_backbone(name, weights=weights, image_size=image_size)
    if backbone.weights_sha256 != cache.identity["weights_sha256"]:
        raise MismatchError(
            f"{cache.path.name} was made with the weights {made_with}, not with "
            f"{backbone.weights} (weights_sha256 differs). Nothing was compared. Name its weights "
            f"with --weights."
        )
    assert backbone.module is not None, "pixels were refused before"
    state = dict(backbone.module.state_dict())
    for name, values in read_trunk_statistics(cache.path).items():
        state[name] = torch.from_numpy(values.copy()).to(state[name].dtype)
    require_its_function(cache, backbone, device="cpu", precision="fp32")
    return state
