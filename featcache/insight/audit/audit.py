"""What may be wrong with the images of a cache. Nothing is edited."""

from __future__ import annotations

import os

from featcache.config import AuditSpec, ExtractSpec, RunSpec
from featcache.core.arguments import place, text
from featcache.core.paths import settled
from featcache.core.preload import preloading
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.features.lookup import the_cache
from featcache.heads.runs import find_run
from featcache.images.splits import Dataset
from featcache.insight.audit.keep_list import require_listable
from featcache.insight.audit.progress import AuditProgressCallback, silent_progress
from featcache.insight.audit.result import AuditResult
from featcache.insight.audit.tested import newest_run_of, require_run_of
from featcache.insight.cache_images import images_of
from featcache.store import Cache, require_sound


@starting(*ANY_START)
def audit(
    cache: Cache | str | os.PathLike[str] | None = None,
    *,
    top: int = AuditSpec.top,
    write_list: str | os.PathLike[str] | None = AuditSpec.write_list,
    run: str | os.PathLike[str] | None = AuditSpec.run,
    dataset: str | os.PathLike[str] | Dataset | None = None,
    device: str = ExtractSpec.device,
    n_workers: int | None = ExtractSpec.n_workers,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_progress: AuditProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> AuditResult:
    """Look for duplicates, wrong labels and outliers among the images of a cache.

    Exact duplicates have one digest. Of near ones, the features give candidates, and the images
    decide. Labels are judged by heads that never saw the image. Only what the images and labels
    say is used: nothing is a proof but equal bytes. Nothing is edited; a list without duplicates
    is written where one is asked for.

    The specs `featcache.config.AuditSpec` and `ExtractSpec` say what the arguments mean.

    Args:
        cache: A cache, its path, or part of its name; None is the cache that `train_head` takes.
        dataset: Where its images are now, or what `featcache.make_dataset` made of them; None takes
            what the cache names.
        on_progress: Called with a stage, how much of it is done, and of how much.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        CacheMissingError: If there is no such cache or run.
        CorruptError: If one is damaged.
        MismatchError: If the run is of another cache.
        UsageError: If no list can be made of the images.

    Example:
        >>> import featcache
        >>> cache = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp)
        >>> found = featcache.audit(cache.path)
        >>> found.n_duplicates("exact"), found.n_images["test"]
        (0, 360)
    """
    note, progress = on_note or silent, on_progress or silent_progress
    asked = AuditSpec(
        top=top,
        write_list=None if write_list is None else text("--write-list", write_list),
        run=None if run is None else text("--run", run),
    )
    where = place("--cache-dir", cache_dir)
    found = the_cache(cache, dataset=None, backbone=None, cache_dir=where, on_note=note)
    opened = found.cache
    if asked.run is None:
        head = newest_run_of(opened, runs_dir)
    else:
        head = find_run(asked.run, runs_dir=runs_dir)
        require_run_of(head, opened)
    images = images_of(opened, dataset=dataset, data_dir=data_dir, on_note=note)
    out = None if asked.write_list is None else settled(asked.write_list)
    if out is not None:
        require_listable(images.dataset, out, images.reason)
    with preloading("featcache.insight.audit.findings"):
        require_sound(opened)
    from featcache.insight.audit.findings import findings

    return findings(
        opened,
        images,
        head,
        top=asked.top,
        out=out,
        device=device,
        n_workers=n_workers,
        cache_dir=where,
        on_progress=progress,
        on_note=note,
    )
