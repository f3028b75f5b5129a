"""How good a backbone is for these images, in seconds: the simplest classifiers on its features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featcache.config import EvaluateSpec, ExtractSpec, ProbeSpec, RunSpec
from featcache.core.arguments import text
from featcache.core.preload import preloading
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import UsageError
from featcache.features.lookup import the_cache
from featcache.features.trainable import require_trainable
from featcache.insight.probe_result import ProbeResult
from featcache.insight.same_images import require_same_images
from featcache.store import Cache, require_sound

CacheGiven = Cache | str | os.PathLike[str]


@starting(*ANY_START)
def probe(
    caches: CacheGiven | Sequence[CacheGiven] | None = None,
    *,
    max_rows: int | None = ProbeSpec.max_rows,
    per_class: Sequence[int] | int | None = ProbeSpec.per_class,
    tries: int = ProbeSpec.tries,
    draws: int = EvaluateSpec.draws,
    seed: int = EvaluateSpec.seed,
    device: str = ExtractSpec.device,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    on_note: NoteCallback | None = None,
) -> ProbeResult:
    """Fit the simplest classifiers on the features of caches, and test them.

    These are the nearest class mean, the nearest neighbours and logistic regression, as
    `train_head` fits them, and beside them the largest class. Nothing is written. The specs
    `featcache.config.ProbeSpec`, `EvaluateSpec` and `ExtractSpec` say what the arguments mean.

    Args:
        caches: A cache, its path, or part of its name; or several of one dataset, of which all are
            compared with the first on the same images. None is the cache that `train_head` takes.
        max_rows: None is so many that a cache takes seconds.
        per_class: Numbers of images of each class for the few-shot curve; None draws none.
        seed: Seeds the bootstrap samples, the draws of images, and which images are left out.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        CacheMissingError: If there is no such cache.
        CorruptError: If one is damaged.
        MismatchError: If the caches are not of the same images.
        UsageError: If there are no labels, one class alone, or too few images.

    Example:
        >>> import featcache
        >>> cache = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp)
        >>> result = featcache.probe(cache.path, max_rows=300)
        >>> [one.solver for one in result.caches[0].classifiers]
        ['majority', 'ncm', 'knn', 'logreg']
    """
    note = on_note or silent
    asked = ProbeSpec(max_rows=max_rows, per_class=per_class, tries=tries)  # type: ignore[arg-type]
    figures = EvaluateSpec(draws=draws, seed=seed)
    where = RunSpec(device=device, cache_dir=text("--cache-dir", cache_dir))
    opened = _opened(caches, Path(where.cache_dir), note)
    with preloading("featcache.insight.probe_figures"):
        for cache in opened:
            require_sound(cache)
    from featcache.insight.probe_figures import probed

    return probed(opened, asked, figures, device=where.device, on_note=note)


def _opened(
    given: CacheGiven | Sequence[CacheGiven] | None, cache_dir: Path, on_note: NoteCallback
) -> list[Cache]:
    """Open the caches, each once, and refuse those that nothing can be fitted on."""
    is_one = given is None or isinstance(given, Cache | str | os.PathLike)
    each: Sequence[Any] = [given] if is_one else [*given]  # type: ignore[misc]
    if not each:
        raise UsageError("No cache was given. Nothing was probed. Give one, or leave it out.")
    opened: dict[Path, Cache] = {}
    for one in each:
        cache = the_cache(
            one, dataset=None, backbone=None, cache_dir=cache_dir, on_note=on_note
        ).cache
        opened.setdefault(cache.path, cache)
    for cache in opened.values():
        require_trainable(cache, None)
    require_same_images([*opened.values()])
    return [*opened.values()]
