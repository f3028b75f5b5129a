"""Which rows of a cache are nearest to an image: one of its own, or a new one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.backbones.own import Backbone
from featcache.config import ExtractSpec, RunSpec, SimilarSpec
from featcache.core.arguments import text
from featcache.core.preload import preloading
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.features.lookup import the_cache
from featcache.images.splits import Dataset
from featcache.insight.cache_images import images_of
from featcache.insight.page.page_file import place_of_page
from featcache.insight.similar.asked import row_or_file
from featcache.insight.similar.pictures_page import write_page
from featcache.insight.similar.query import NewImage, features_of, opened_image
from featcache.insight.similar.result import SimilarImages
from featcache.store import Cache, require_sound

if TYPE_CHECKING:
    from torch import nn


@starting(*ANY_START)
def similar(
    image: str | os.PathLike[str],
    *,
    cache: Cache | str | os.PathLike[str] | None = None,
    k: int = SimilarSpec.k,
    split: str | None = SimilarSpec.split,
    out: str | os.PathLike[str] | None = None,
    dataset: str | os.PathLike[str] | Dataset | None = None,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    backbone: str | Backbone | nn.Module | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str = ExtractSpec.device,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    on_note: NoteCallback | None = None,
) -> SimilarImages:
    """Find the rows of a cache whose features are nearest to those of an image.

    Near is what has a high cosine. Each row is compared, so the answer is exact. The features of a
    new image are computed by the backbone of the cache, which is built again and compared with the
    one that made the rows, as `predict` does it; those of a row are in the cache.

    Args:
        image: The id of a row; SPLIT:ID, where several splits have it; a part that one id alone
            has; or the path of an image file. A Path is always a file.
        cache: A cache, its path, or part of its name; None is the cache that `train_head` takes.
        k: How many of the nearest rows to tell.
        split: Look only through the rows of this split.
        out: Write a page of pictures into this .html file.
        dataset: Where the images of the cache are now, for the page; None takes what the cache
            names.
        data_dir: Folder of downloaded datasets, for the page.
        backbone: The backbone of the cache, where that must not choose it: code of one's own, a
            folder of timm's, the hub. Of no use for a row, as `weights` and `device`.
        weights: What fills it; None takes what filled it then.
        device: Where it runs: "auto", "cpu", "cuda" or "cuda:N".
        cache_dir: Folder of all caches.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        CacheMissingError: If there is no such cache.
        CorruptError: If it is damaged.
        UsageError: If there is no such row or file, or the features of a new image cannot be made.
        DatasetError: If the image cannot be read.
        MismatchError: If the backbone is not the one of the cache.
        WeightsError: If its weights are gone.

    Example:
        >>> import featcache
        >>> made = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp)
        >>> found = featcache.similar("train:0", cache=made.path, k=3)
        >>> [one.label for one in found.neighbours]
        ['0', '0', '0']
    """
    note = on_note or silent
    spec = SimilarSpec(k=k, split=split)
    where = RunSpec(device=device, cache_dir=text("--cache-dir", cache_dir))
    page = None if out is None else place_of_page(out)
    opened = the_cache(
        cache, dataset=None, backbone=None, cache_dir=Path(where.cache_dir), on_note=note
    ).cache
    splits = [*opened] if spec.split is None else [opened[spec.split].name]
    named = row_or_file(image, opened, note)
    asked = opened_image(named, opened) if isinstance(named, Path) else named
    with preloading("featcache.insight.similar.compared"):
        require_sound(opened)
    from featcache.insight.similar.compared import nearest_to_image, nearest_to_row

    if isinstance(asked, NewImage):
        features = features_of(
            asked, opened, backbone=backbone, weights=weights, device=where.device, on_note=note
        )
        found = nearest_to_image(features, asked, opened, splits, spec.k, on_note=note)
    else:
        found = nearest_to_row(asked, opened, splits, spec.k, on_note=note)
    if page is None:
        return found
    images = images_of(opened, dataset=dataset, data_dir=data_dir, on_note=note)
    write_page(page, found, images, asked if isinstance(asked, NewImage) else None)
    return replace(found, page=page)
