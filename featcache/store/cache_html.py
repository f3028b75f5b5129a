"""A cache as a notebook shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.core.html_table import html_facts, html_table

if TYPE_CHECKING:
    from featcache.store.reader import Cache


def cache_html(cache: Cache) -> str:
    """Write what it holds: a table of facts, and one of its splits."""
    facts = {
        "dataset": cache.provenance.dataset,
        "backbone": cache.identity.backbone,
        "weights": cache.provenance.weights,
        "features": cache.n_features,
        "views": cache.identity.views.told if cache.identity.views.n > 1 else None,
        "classes": len(cache.class_names) or "no labels",
        "fingerprint": cache.fingerprint[:8],
    }
    rows = [(name, len(split), int((~split.valid).sum())) for name, split in cache.splits.items()]
    return html_facts(facts, caption=cache.path) + html_table(["split", "rows", "unreadable"], rows)
