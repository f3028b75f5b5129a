"""Where all of it is from, and the commands that make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from featcache.backbones.family import LIBRARIES
from featcache.core.backbone_names import PIXELS, RANDOM
from featcache.core.preprocess import Preprocess
from featcache.errors import counted
from featcache.heads.trained_head import TrainedHead
from featcache.insight.page.document import Section
from featcache.insight.page.markup import Content, Html, code, element, joined, paragraph
from featcache.insight.page.table import details, facts, table
from featcache.insight.report.commands import extraction_command, training_commands
from featcache.insight.report.material import Material
from featcache.store import Cache, describe_cache, human_bytes, named_backbone

_VERSIONS = ("featcache", "torch", "torchvision", *LIBRARIES, "pillow", "pytorch_lightning")
_UNKNOWN_LICENCE = (
    "not told by the cache; look it up where the weights are from, before others use the head"
)


def provenance(material: Material) -> Section:
    """Write the provenance of each cache and of each system, and the commands in order."""
    parts: list[Content] = []
    for head in _heads_of_caches(material):
        known = material.facts.get(head.cache_fingerprint)
        cache = None if known is None else known.cache
        parts += [element("h3", f"Cache {head.cache_path.stem}"), _of_cache(head, cache, material)]
    parts += [element("h3", "Heads"), _runs(material)]
    parts += [element("h3", "Make it again"), _commands(material)]
    return Section("provenance", "Where it is from", joined(*parts))


def _heads_of_caches(material: Material) -> list[TrainedHead]:
    """Take a head of each cache."""
    heads = {system.head.cache_fingerprint: system.head for system in material.systems}
    return [*heads.values()]


def _of_cache(head: TrainedHead, cache: Cache | None, material: Material) -> Html:
    """Write what a cache says of itself, or what its head knows of it if it is gone."""
    identity: Mapping[str, Any] = head.cache_identity
    said: Mapping[str, Any] = {}
    if cache is not None:
        said = cache.provenance
    elif head.record is not None:
        said = head.record.provenance
    naming = material.naming
    is_pixels = identity["backbone"] == PIXELS
    backbone = identity["backbone"]
    if cache is not None:
        backbone = named_backbone(cache.identity, cache.provenance)
    told: dict[str, Content] = {
        "dataset": element("bdi", naming.dataset(head.dataset)),
        "images": None if cache is None else _rows(cache),
        "classes": _classes(head),
        "backbone": naming.backbone(str(backbone)),
        "weights": None if is_pixels else str(said.get("weights", "unknown")),
        "licence of the weights": None if is_pixels else _licence(said),
        "SHA-256 of the weights": None if is_pixels else _text(identity.get("weights_sha256")),
        "layer": _text(identity.get("layer")),
        "pooling": _text(identity.get("pool")),
        "preprocessing": _preprocessing(identity),
        "BatchNorm": _text(_mode(identity.get("bn"))),
        "precision": _text(identity.get("precision")),
        "stored as": _text(identity.get("store_dtype")),
        "features of an image": f"{head.n_features:,}",
        "SHA-256 of the dataset": _text(identity.get("dataset_sha256")),
        "fingerprint": head.cache_fingerprint,
        "file": naming.path(head.cache_path if cache is None else cache.path),
        "versions": _versions(said),
    }
    gone = cache is None
    parts = [facts(told)]
    if gone:
        parts.append(paragraph("The cache is gone; this is what its head says of it."))
    return joined(*parts)


def _licence(said: Mapping[str, Any]) -> str:
    """Tell the licence of the weights, as far as the cache does."""
    if str(said.get("weights", "")).startswith(RANDOM):
        return "none: the weights are random"
    return str(said.get("licence", _UNKNOWN_LICENCE))


def _rows(cache: Cache) -> str:
    described = describe_cache(cache.path)
    parts = []
    for split in described.splits:
        unread = f" ({counted(len(split.failures), 'image')} unreadable)" if split.failures else ""
        parts.append(f"{split.n_rows:,} {split.name}{unread}")
    return f"{', '.join(parts)}; {human_bytes(described.nbytes)}"


def _classes(head: TrainedHead) -> Content:
    names = head.class_names
    shown = joined(*(joined(element("bdi", one), ", ") for one in names[:20]))
    if len(names) > 20:
        return joined(f"{len(names)}: ", shown, f"and {len(names) - 20} more")
    return joined(f"{len(names)}: ", Html(shown.removesuffix(", ")))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _mode(bn: Any) -> Any:
    return bn.get("mode") if isinstance(bn, Mapping) else bn


def _preprocessing(identity: Mapping[str, Any]) -> str | None:
    if "preprocess" not in identity:
        return None
    return Preprocess.from_json(identity["preprocess"]).told


def _versions(said: Mapping[str, Any]) -> str | None:
    known = [f"{name} {said[name]}" for name in _VERSIONS if name in said]
    return ", ".join(known) or None


def _runs(material: Material) -> Html:
    """List the runs with what trained them."""
    rows = []
    for system in material.systems:
        for run in system.runs:
            versions = _versions(run.head.versions) or "-"
            device = run.head.versions.get("device", "cpu")
            epochs = "stopped" if run.trained is None else f"{run.trained.n_epochs}"
            kept = f", {run.head.n_epochs} kept" if run.head.n_epochs else ""
            seed = run.head.train.seed if run.head.solver.is_mlp else "-"
            path = material.naming.path(run.path)
            rows.append(
                (
                    path,
                    system.name,
                    seed,
                    f"{epochs}{kept}",
                    _found(run.head),
                    f"{device}; {versions}",
                )
            )
    columns = ["run", "system", "#seed", "epochs", "found by the solver", "made on"]
    listed = table(columns, rows, caption="Runs of this report")
    return details(f"All {len(rows)} runs", listed) if len(rows) > 10 else listed


def _found(head: TrainedHead) -> str:
    shown = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in head.found.items()
    )
    return ", ".join(shown) or "-"


def _commands(material: Material) -> Html:
    """Write the commands: extraction, training, report."""
    lines = [extraction_command(one.cache, material.naming) for one in material.facts.values()]
    for system in material.systems:
        lines += training_commands(system, material.naming)
    lines.append(_report_command(material))
    notes = [
        system.name for system in material.systems if system.head.train.window_rows is not None
    ]
    windows = (
        f"Rows of {', '.join(notes)} were shuffled in windows, as features did not fit into "
        f"memory: --max-memory decides how large these are."
        if notes
        else None
    )
    return joined(code(*lines), None if windows is None else paragraph(windows))


def _report_command(material: Material) -> str:
    runs = [material.naming.path(run.path) for system in material.systems for run in system.runs]
    options = [] if material.naming.paths else ["--no-paths"]
    return shlex.join(["featcache", "report", *runs, *options])
