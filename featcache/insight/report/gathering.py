"""From runs to the material of a report: systems, what their caches say, the mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from featcache.config import RunSpec
from featcache.core.reporting import NoteCallback
from featcache.core.stopping import stop_if_asked
from featcache.errors import FeatcacheError
from featcache.insight.cache_images import CacheImages, images_of
from featcache.insight.report.cache_facts import CacheFacts
from featcache.insight.report.drawn import Drawn
from featcache.insight.report.judged_run import JudgedRun
from featcache.insight.report.material import Material, Naming
from featcache.insight.report.mistakes import (
    Mistake,
    most_confident_mistakes,
    with_nearest,
    with_pictures,
)
from featcache.insight.report.sections.audit import shown_images
from featcache.insight.report.systems import systems_of
from featcache.insight.thumbnails import thumbnail
from featcache.store import Cache


def gathered(
    runs: Sequence[JudgedRun],
    *,
    drawn: Drawn,
    paths: bool,
    audited: bool,
    where: RunSpec,
    data_dir: str,
    images_per_s: Mapping[str, float],
    sound: Sequence[Path],
    on_note: NoteCallback,
) -> Material:
    """Gather what a report tells of runs, and keep what was computed of their caches.

    Args:
        runs: The runs.
        drawn: How intervals are drawn; kept ones that were drawn otherwise are drawn anew.
        paths: Whether paths are told.
        audited: Whether to audit the caches where that was not done.
        where: Device and folders.
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
            _complete(one, drawn, where.device, on_note)
            # One that had no images to decide is made anew: they may be back.
            if audited and (one.audit is None or one.audit.near_decided_by == "features"):
                _audit(one, where, data_dir, on_note)
        except FeatcacheError as err:
            problem(f"{one.cache.path.name}: {err}")
        one.keep(on_note)
    images = _Images(data_dir, on_note)
    material = Material(
        dataset=runs[0].head.dataset,
        class_names=runs[0].head.class_names,
        systems=systems_of(runs),
        facts=facts,
        mistakes=(),
        no_pictures="",
        pictures=_audited_pictures(facts.values(), images),
        problems=problems,
        images_per_s=images_per_s,
        figures=drawn.spec,
        naming=Naming(paths),
    )
    best = material.best
    if best is None:
        return material
    run = best.answered[0]
    own = facts.get(run.head.cache_fingerprint)
    found, no_pictures = _mistakes(run, own, where.device, images, on_note)
    return replace(material, mistakes=found, no_pictures=no_pictures)


class _Images:
    """The images of caches, found once each."""

    def __init__(self, data_dir: str, on_note: NoteCallback) -> None:
        self._data_dir, self._note = data_dir, on_note
        self._found: dict[str, CacheImages] = {}

    def of(self, cache: Cache) -> CacheImages:
        if cache.fingerprint not in self._found:
            found = images_of(cache, data_dir=self._data_dir, on_note=self._note)
            if found.reason:
                self._note(f"no pictures: {found.reason}")
            self._found[cache.fingerprint] = found
        return self._found[cache.fingerprint]


def _audit(facts: CacheFacts, where: RunSpec, data_dir: str, on_note: NoteCallback) -> None:
    from featcache.insight.audit.audit import audit  # of use to few reports

    facts.about_to_compute()
    on_note(f"auditing {facts.cache.path.name}; the result is kept for later reports")
    facts.audit = audit(
        facts.cache,
        device=where.device,
        cache_dir=where.cache_dir,
        data_dir=data_dir,
        runs_dir=where.runs_dir,
        on_note=on_note,
    )


def _audited_pictures(
    facts: Iterable[CacheFacts], images: _Images
) -> dict[tuple[str, str, int], str]:
    """Make the pictures of what audits found."""
    made = {}
    for one in facts:
        if one.audit is None:
            continue
        own = images.of(one.cache)
        for shown in () if own.reason else shown_images(one.audit):
            key = one.audit.cache.name, shown.split, shown.row
            made[key] = thumbnail(own, shown.split, shown.row).uri
    return made


def _complete(facts: CacheFacts, drawn: Drawn, device: str, on_note: NoteCallback) -> None:
    """Compute what is not known yet of a cache, or was drawn otherwise."""
    simple, of_map = facts.simple, facts.map
    if simple is not None and not drawn.fits(simple.draws, simple.seed):
        facts.simple = None
    if of_map is not None and drawn.seed not in (None, of_map.seed):
        facts.map = None
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
        facts.map = feature_map(facts.cache, seed=drawn.spec.seed, device=where)
    if facts.simple is None:
        facts.simple = simple_classifiers(facts.cache, figures=drawn.spec, device=where)


def _mistakes(
    run: JudgedRun,
    facts: CacheFacts | None,
    device: str,
    images: _Images,
    on_note: NoteCallback,
) -> tuple[list[Mistake], str]:
    """Find the mistakes of a head with their pictures; and why there are no pictures."""
    found = most_confident_mistakes(run)
    if facts is None or not found:
        return found, ""
    try:
        if run.evaluation is not None and run.evaluation.split != "train":  # else itself is nearest
            found = with_nearest(found, facts, run, device=device)
    except FeatcacheError as err:
        on_note(str(err))
    facts.keep(on_note)
    own = images.of(facts.cache)
    if own.reason:
        return found, own.reason
    return with_pictures(found, own), ""
