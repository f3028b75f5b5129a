"""What the heads are worth, in a sentence; and what they cost and saved."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.core.backbone_names import PIXELS
from featcache.errors import counted
from featcache.insight.page.document import Section
from featcache.insight.page.markup import Content, Html, element, joined, paragraph
from featcache.insight.page.table import table
from featcache.insight.report.material import SIMPLE, Material, percent
from featcache.insight.report.systems import ReportedSystem
from featcache.store import Cache


def lead(material: Material) -> Html:
    """Write the sentence that stands first."""
    best = material.best
    if best is None or best.acc is None:
        n = sum(len(system.runs) for system in material.systems)
        said = f"No answer of {counted(n, 'head')} on {_images(material)} is known."
        return element("p", said, class_="lead")
    n_images = len(best.answered[0].evaluation.answers.ids)  # type: ignore[union-attr]
    n_seeds = len(best.answered)
    of_seeds = f", mean of {n_seeds} seeds" if n_seeds > 1 else ""
    parts: list[Content] = [
        element("strong", best.name),
        f" names {percent(best.acc.value)} of {n_images:,} {best.split} images of ",
        element("bdi", _images(material)),
        f" right (95% interval {percent(best.acc.low)} to {percent(best.acc.high)}{of_seeds})",
    ]
    if len(material.systems) > 1:
        parts.append(f", the most of {len(material.systems)} systems")
    knn = next((one for one in material.simple_of(best) if one.solver == "knn"), None)
    if knn is not None:
        parts.append(f"; {SIMPLE['knn']} on the same features, without a head, {percent(knn.acc)}")
    return element("p", *parts, ".", class_="lead")


def _images(material: Material) -> str:
    return material.naming.dataset(material.dataset)


@dataclass(frozen=True)
class _Cost:
    """What the heads of a system cost.

    Attributes:
        system: It.
        n_epochs: Epochs, the mean over its heads; 0 of a solver without epochs.
        train_s: Seconds of the training, likewise.
        n_passes: Images that training all its heads end to end would send through the backbone.
    """

    system: ReportedSystem
    n_epochs: float
    train_s: float
    n_passes: int


def cost(material: Material) -> Section | None:
    """Write what the heads cost, and how often they spared the backbone an image."""
    costs = [_cost_of(system) for system in material.systems]
    known = [one for one in costs if one is not None]
    if not known:
        return None
    columns = ["system", "#heads", "#epochs", "#training, s a head", "#images end to end"]
    rows = [
        (
            one.system.name,
            len(one.system.runs),
            f"{one.n_epochs:.1f}" if one.n_epochs else "none",
            f"{one.train_s:.1f}",
            f"{one.n_passes:,}" if one.n_passes else "-",
        )
        for one in known
    ]
    caption = "What each system cost, and the images that its heads would send through a backbone"
    body = joined(*_saved(material, known), table(columns, rows, caption=caption))
    return Section("cost", "What it cost and saved", body)


def _cost_of(system: ReportedSystem) -> _Cost | None:
    trained = [run.trained for run in system.runs if run.trained is not None]
    if not trained:
        return None
    head = system.head
    per_epoch = sum(int(part["n_rows"]) for part in head.split.values())
    n_tested = 0
    if system.runs[0].cache is not None and "test" in system.runs[0].cache:
        n_tested = len(system.runs[0].cache["test"])
    passes = sum(max(1, run.n_epochs) * per_epoch + n_tested for run in trained)
    return _Cost(
        system,
        sum(run.n_epochs for run in trained) / len(trained),
        sum(run.seconds for run in trained) / len(trained),
        0 if head.backbone == PIXELS else passes,
    )


def _saved(material: Material, costs: list[_Cost]) -> list[Html]:
    """Say what was computed once, and what of it the heads spared."""
    said = []
    caches = {
        run.cache.fingerprint: run.cache
        for system in material.systems
        for run in system.runs
        if run.cache is not None and system.head.backbone != PIXELS
    }
    n_once = sum(map(_n_computed, caches.values()))
    n_passes = sum(one.n_passes for one in costs)
    total_s = sum(one.train_s * len(one.system.runs) for one in costs)
    n_heads = sum(len(one.system.runs) for one in costs)
    if n_once and n_passes:
        said.append(
            paragraph(
                f"Backbones computed the features of {n_once:,} images once. To train the same "
                f"heads end to end, with as many epochs, would send {n_passes:,} images through "
                f"them: {n_passes / n_once:,.1f} times as many."
            )
        )
    said.append(
        paragraph(f"All trainings together took {_duration(total_s)}, for {n_heads} heads.")
        if n_heads > 1
        else paragraph(f"The training took {_duration(total_s)}.")
    )
    timed = [(c, material.images_per_s[f]) for f, c in caches.items() if f in material.images_per_s]
    for cache, rate in timed:
        own = sum(o.n_passes for o in costs if o.system.head.cache_fingerprint == cache.fingerprint)
        n_rows = _n_computed(cache)
        said.append(
            paragraph(
                f"{cache.identity.backbone}: its extraction ran at {rate:,.3g} images a second, "
                f"{_duration(n_rows / rate)} in all. At that rate the passes end to end would "
                f"take {_duration(own / rate)}, the heads not counted."
            )
        )
    return said


def _n_computed(cache: Cache) -> int:
    """Count what went through the backbone: each view of each image."""
    return sum(len(split) * split.n_views for split in cache.splits.values())


def _duration(seconds: float) -> str:
    """Write seconds for people."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 99.5 else f"{minutes / 60:.1f} hours"
