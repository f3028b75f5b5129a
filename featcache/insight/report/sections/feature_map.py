"""The features of a cache in a plane, coloured by class."""

from __future__ import annotations

import numpy as np

from featcache.features.trainable import labels_of
from featcache.insight.page.axes import N_MARKS, Mark
from featcache.insight.page.document import Section
from featcache.insight.page.markup import Html, element, joined, name, paragraph
from featcache.insight.page.scatter import Cloud, scatter
from featcache.insight.page.style import N_COLOURS
from featcache.insight.report.cache_facts import CacheFacts, FeatureMap
from featcache.insight.report.material import Material, percent
from featcache.insight.report.sections.classes import recalls

_SAID = (
    "Each point is an image, placed by its features in the two directions in which features vary "
    "most (principal components). Classes that lie apart here are easily told apart. Classes that "
    "overlap here may still differ in other directions: the shares say how much is seen."
)


def feature_maps(material: Material) -> Section | None:
    """Draw the map of each cache."""
    drawn = [
        _figure(facts, facts.map, material)
        for facts in material.facts.values()
        if facts.map is not None
    ]
    if not drawn:
        return None
    grid = element("div", *drawn, class_="grid")
    return Section("map", "Map of the features", joined(paragraph(_SAID), grid))


def _figure(facts: CacheFacts, drawn: FeatureMap, material: Material) -> Html:
    cache = facts.cache
    labels = labels_of(cache, drawn.split)[list(drawn.rows)]
    names, chosen = cache.class_names, _chosen(facts, labels, material)
    points = np.array(drawn.points)
    clouds = [
        Cloud(name(names[k]), points[labels == k].tolist(), Mark(i))
        for i, k in enumerate(chosen)
        if (labels == k).any()
    ]
    others = points[~np.isin(labels, chosen)]
    which = ""
    if len(others):
        n = len(names) - len(chosen)
        clouds.insert(0, Cloud(f"{n} other classes", others.tolist(), None))
        which = f" Coloured are the {len(chosen)} classes with the lowest recall."
    first, second = (percent(share) for share in drawn.shares)
    both = percent(sum(drawn.shares))
    return scatter(
        clouds,
        x_title=f"first direction, {first} of the variance",
        y_title=f"second direction, {second}",
        caption=f"{len(drawn.rows):,} {drawn.split} images by {cache.path.stem}: {both} of the "
        f"variance is seen.{which}",
        alt=f"Map of {len(drawn.rows)} images of {len(names)} classes by the features of "
        f"{cache.identity.backbone}; it shows {both} of their variance",
    )


def _chosen(facts: CacheFacts, labels: np.ndarray, material: Material) -> list[int]:
    """Choose the classes that are coloured: all, or those that are told apart worst."""
    n_classes = len(facts.cache.class_names)
    if n_classes <= N_MARKS:
        return [*range(n_classes)]
    own = [s for s in material.detailed if material.facts_of(s) is facts]
    worth = -np.bincount(labels, minlength=n_classes).astype(np.float64)
    if own:
        worth = np.nan_to_num(recalls(own[0], n_classes).mean(0), nan=2.0)
    return sorted(np.argsort(worth, kind="stable")[:N_COLOURS].tolist())
