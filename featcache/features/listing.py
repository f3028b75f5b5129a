"""Whether a cache is of a dataset's listing, and of the folder that was named; no image is read."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.core.paths import expanded, native, places_of, resolved
from featcache.images.datasets import at_path, is_there, path_in
from featcache.images.splits import Dataset
from featcache.store import Cache


def listing_difference(listing: Dataset, cache: Cache) -> str:
    """Say where a dataset's listing and a cache first differ; empty if they are of the same rows.

    Compared are splits, ids, labels and class names, after the limit that the cache was made with.
    """
    if listing.class_names != cache.class_names:
        return _first_difference("class", listing.class_names, cache.class_names)
    if list(listing.splits) != list(cache.splits):
        there, here = ", ".join(listing.splits), ", ".join(cache.splits)
        return f"the splits are {there} there, and {here} in the cache"
    for name, split in listing.limited(cache.provenance.limit).splits.items():
        ids, kept = list(split.ids), list(cache[name].ids)
        if ids != kept:
            return _first_difference(f"{name} row", ids, kept)
        labels, kept_labels = split.labels, cache[name].labels
        if labels is None or kept_labels is None:
            if labels is not kept_labels:
                said, stored = ("no", "some") if labels is None else ("some", "none")
                return f"{name} has {said} labels there, and {stored} in the cache"
            continue
        wrong = (labels != kept_labels).nonzero()[0]
        if len(wrong):
            return f"{name} row {wrong[0]} ({ids[wrong[0]]!r}) has another label in the cache"
    return ""


def n_differing_rows(listing: Dataset, cache: Cache) -> int:
    """Count the rows that only one of both has, by split, id and class name."""
    there: set[tuple[str, str, str]] = set()
    here: set[tuple[str, str, str]] = set()
    for splits, names, rows in (
        (listing.limited(cache.provenance.limit).splits, listing.class_names, there),
        (cache.splits, cache.class_names, here),
    ):
        for split in splits.values():
            labels = split.labels
            classes = [""] * len(split) if labels is None else [names[k] for k in labels]
            rows |= {(split.name, *row) for row in zip(split.ids, classes, strict=True)}
    return len(there ^ here)


def is_made_from(cache: Cache, dataset: str) -> bool:
    """Tell whether a cache names the path of a dataset as that of its images, wherever we stand.

    Args:
        cache: The cache.
        dataset: A name with a path in it.
    """
    name = native(cache.provenance.dataset)
    recorded, named = path_in(name), path_in(dataset)
    if not recorded or not named:
        return False
    places = places_of(expanded(recorded), named_in=cache.path)
    there = [resolved(place) for place in places if is_there(at_path(name, place))]
    return there[:1] == [resolved(expanded(named))]


def _first_difference(what: str, there: Sequence[str], here: Sequence[str]) -> str:
    pairs = zip(there, here, strict=False)
    i = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(there), len(here)))
    shown, kept = (repr(names[i]) if i < len(names) else "missing" for names in (there, here))
    counts = f" ({len(there)} there, {len(here)} in the cache)" if len(there) != len(here) else ""
    return f"{what} {i} is {shown} there, and {kept} in the cache{counts}"
