"""Where the images of a cache are, whatever folder the command that asks stands in."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from featcache.config import ExtractSpec
from featcache.core.paths import expanded, native, places_of
from featcache.errors import DatasetError
from featcache.images.datasets import at_path, is_there, load_dataset, path_in
from featcache.store import Manifest


def dataset_of(path: Path, manifest: Manifest) -> str:
    """Name the dataset that a cache was made from, as it can be opened from here.

    The cache keeps the name as typed. A relative path is looked for beside the cache, in the
    folders above it, then in the working directory. The first with the right number of images in
    each split is taken, else the first that exists. The digest is checked later.

    Args:
        path: The cache.
        manifest: What it says.
    """
    name = native(manifest.provenance.dataset)
    typed = path_in(name)
    if not typed or (folder := expanded(typed)).is_absolute():
        return name
    named = [at_path(name, place) for place in places_of(folder, named_in=path)]
    there = [candidate for candidate in named if is_there(candidate)]
    counts = {split: layout.n_rows for split, layout in manifest.splits.items()}
    limit = manifest.provenance.limit
    fitting = [candidate for candidate in there if _has_rows(candidate, counts, limit)]
    return (fitting or there or [name])[0]


def _has_rows(name: str, counts: Mapping[str, int], limit: int | None) -> bool:
    with contextlib.suppress(DatasetError):
        listing = load_dataset(name, data_dir=ExtractSpec.data_dir).limited(limit)
        of_each = {name: len(split) for name, split in listing.splits.items()}
        return all(of_each.get(name) == n for name, n in counts.items())
    return False
