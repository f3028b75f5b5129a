"""From runs to the material of a report: systems, what their caches say, the mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from featcache.config import EvaluateSpec
from featcache.core.reporting import NoteCallback
from featcache.core.stopping import stop_if_asked
from featcache.errors import FeatcacheError
from featcache.insight.cache_images import images_of
from featcache.insight.report.cache_facts import CacheFacts
from featcache.insight.report.judged_run import JudgedRun
from featcache.insight.report.material import Material, Naming
from featcache.insight.report.mistakes import (
    Mistake,
    most_confident_mistakes,
    with_nearest,
    with_pictures,
)
from featcache.insight.report.systems import systems_of


def gathered(
    runs: Sequence[JudgedRun],
    *,
    figures: EvaluateSpec,
    paths: bool,
    device: str,
    data_dir: str,
    images_per_s: Mapping[str, float],
    sound: Sequence[Path],
    on_note: NoteCallback,
) -> Material:
    """Gather what a report tells of runs, and keep what was computed of their caches.

    Args:
        runs: The runs.
        figures: How intervals are drawn.
        paths: Whether paths are told.
        device: "auto", "cpu", "cuda" or "cuda:N".
        data_dir: Folder of downloaded datasets.
        images_per_s: Rates of extractions that are known, by fingerprint.
        sound: Caches that were verified a moment ago.
        on_note: Told what could not be computed.
    """
    caches = {run.cache.fingerprint: run.cache for run in runs if run.cache is not None}
    facts = {fingerprint: CacheFacts.of(cache) for fingerprint, cache in caches.items()}
    for one in facts.values():
        one.is_sound = one.cache.path in sound
    problems: list[str] = []

    def problem(said: str) -> None:
        problems.append(said)
        on_note(said)

    for one in facts.values():
        stop_if_asked()
        try:
            _complete(one, figures, device, on_note)
        except FeatcacheError as err:
            problem(f"{one.cache.path.name}: {err}")
        one.keep(on_note)
    material = Material(
        dataset=runs[0].head.dataset,
        class_names=runs[0].head.class_names,
        systems=systems_of(runs),
        facts=facts,
        mistakes=(),
        no_pictures="",
        problems=problems,
        images_per_s=images_per_s,
        figures=figures,
        naming=Naming(paths),
    )
    best = material.best
    if best is None:
        return material
    run = best.answered[0]
    found, no_pictures = _mistakes(
        run, facts.get(run.head.cache_fingerprint), device, data_dir, on_note
    )
    return replace(material, mistakes=found, no_pictures=no_pictures)


def _complete(facts: CacheFacts, figures: EvaluateSpec, device: str, on_note: NoteCallback) -> None:
    """Compute what is not known yet of a cache."""
    if facts.simple is not None and facts.map is not None:
        return
    on_note(f"class means, nearest neighbours and map of {facts.cache.path.name} are computed once")
    facts.about_to_compute()
    import torch  # it takes seconds, and is not needed where all is kept

    from featcache.core.device import pick_device
    from featcache.insight.report.feature_map import feature_map
    from featcache.insight.report.simple_classifiers import simple_classifiers

    where = torch.device(pick_device(device).value)
    if facts.map is None:
        facts.map = feature_map(facts.cache, seed=figures.seed, device=where)
    if facts.simple is None:
        facts.simple = simple_classifiers(facts.cache, figures=figures, device=where)


def _mistakes(
    run: JudgedRun,
    facts: CacheFacts | None,
    device: str,
    data_dir: str,
    on_note: NoteCallback,
) -> tuple[list[Mistake], str]:
    """Find the mistakes of a head with their pictures; and why there are no pictures."""
    found = most_confident_mistakes(run)
    if facts is None or not found:
        return found, ""
    try:
        found = with_nearest(found, facts, run, device=device)
    except FeatcacheError as err:
        on_note(str(err))
    facts.keep(on_note)
    images = images_of(facts.cache, data_dir=data_dir, on_note=on_note)
    if images.reason:
        on_note(f"no pictures: {images.reason}")
        return found, images.reason
    return with_pictures(found, images), ""
