"""The page of a report: its sections in order."""

from __future__ import annotations

from featcache.errors import counted
from featcache.insight.page.document import document
from featcache.insight.report.material import Material
from featcache.insight.report.sections.audit import audit
from featcache.insight.report.sections.classes import classes
from featcache.insight.report.sections.curves import curves
from featcache.insight.report.sections.feature_map import feature_maps
from featcache.insight.report.sections.mistakes import mistakes
from featcache.insight.report.sections.provenance import provenance
from featcache.insight.report.sections.reliability import reliability
from featcache.insight.report.sections.summary import cost, lead
from featcache.insight.report.sections.systems import systems

_SECTIONS = (
    systems,
    cost,
    curves,
    classes,
    reliability,
    feature_maps,
    mistakes,
    audit,
    provenance,
)


def written(material: Material, *, made: str) -> str:
    """Write the page.

    Args:
        material: What it tells.
        made: The day, for its last line.
    """
    dataset = material.naming.dataset(material.dataset)
    n_heads = sum(len(system.runs) for system in material.systems)
    sections = [one for section in _SECTIONS if (one := section(material)) is not None]
    about = f"{counted(n_heads, 'head')} for {dataset}, as featcache report wrote it"
    title = f"Heads for {dataset}" if n_heads > 1 else f"A head for {dataset}"
    return document(title, lead(material), sections=sections, about=about, made=made)
