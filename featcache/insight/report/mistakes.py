"""The most confident mistakes of a head, each beside the training image nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featcache.features.trainable import labels_of
from featcache.insight.cache_images import CacheImages
from featcache.insight.report.cache_facts import CacheFacts
from featcache.insight.report.judged_run import JudgedRun
from featcache.insight.thumbnails import thumbnail
from featcache.store import Cache

N_MISTAKES = 12


@dataclass(frozen=True)
class Shown:
    """An image of a cache, as a page shows it.

    Attributes:
        split: Its split in the cache.
        row: Its row there; None where the cache is gone.
        id: Its id.
        label: Its class.
        source: The image as a data URI; empty where it is not to be had.
        reason: Why it is not; empty if it is.
    """

    split: str
    row: int | None
    id: str
    label: int
    source: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Mistake:
    """An image that a head takes for another class.

    Attributes:
        image: The image.
        prediction: The class that the head names.
        confidence: With which probability.
        nearest: The training image nearest to it; None where the cache is gone.
        cosine: Of their features.
    """

    image: Shown
    prediction: int
    confidence: float
    nearest: Shown | None = None
    cosine: float = 0.0


def most_confident_mistakes(run: JudgedRun, n: int = N_MISTAKES) -> list[Mistake]:
    """List the mistakes of a head, the most confident first; of equal ones the earlier image."""
    assert run.evaluation is not None, "it was evaluated"
    answers, split = run.evaluation.answers, run.evaluation.split
    wrong = np.flatnonzero(~answers.is_right)
    chosen = wrong[np.argsort(-answers.confidences[wrong], kind="stable")][:n].tolist()
    row_of = {}
    if run.cache is not None:
        if split not in run.cache:  # a share of the training images
            split = "train"
        row_of = {image_id: row for row, image_id in enumerate(run.cache[split].ids)}
    return [
        Mistake(
            Shown(split, row_of.get(answers.ids[i]), answers.ids[i], int(answers.labels[i])),
            prediction=int(answers.predictions[i]),
            confidence=float(answers.confidences[i]),
        )
        for i in chosen
    ]


def with_nearest(
    mistakes: Sequence[Mistake], facts: CacheFacts, run: JudgedRun, *, device: str
) -> list[Mistake]:
    """Put beside each mistake the training image nearest to it.

    Raises:
        CorruptError: If the cache is damaged.
    """
    if not mistakes:
        return []
    from featcache.insight.report.nearest_images import nearest_images  # it imports torch

    cache = facts.cache
    rows = [one.image.row for one in mistakes if one.image.row is not None]
    if len(rows) < len(mistakes):
        return list(mistakes)
    found = nearest_images(facts, run.head, mistakes[0].image.split, rows, device=device)
    return [
        replace(
            one,
            nearest=_shown(cache, nearest.split, nearest.row),
            cosine=nearest.cosine,
        )
        for one, nearest in zip(mistakes, found, strict=True)
    ]


def with_pictures(mistakes: Sequence[Mistake], images: CacheImages) -> list[Mistake]:
    """Decode the images of mistakes and of what is nearest to them."""
    return [
        replace(
            one,
            image=_pictured(one.image, images),
            nearest=None if one.nearest is None else _pictured(one.nearest, images),
        )
        for one in mistakes
    ]


def _shown(cache: Cache, split: str, row: int) -> Shown:
    return Shown(split, row, cache[split].ids[row], int(labels_of(cache, split)[row]))


def _pictured(one: Shown, images: CacheImages) -> Shown:
    if one.row is None:
        return one
    found = thumbnail(images, one.split, one.row)
    return replace(one, source=found.uri, reason=found.reason)
