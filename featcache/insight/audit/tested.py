"""The newest head of a cache, tested without the images that it was trained on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core.reporting import silent
from featcache.errors import FeatcacheError, MismatchError
from featcache.heads.head_file import HEAD_FILE, load_head, read_description
from featcache.heads.predictions import outputs_of
from featcache.heads.runs import list_runs
from featcache.insight.audit.result import TestedWithout
from featcache.store import Cache


def newest_run_of(cache: Cache, runs_dir: str | os.PathLike[str]) -> Path | None:
    """Find the newest finished run that was trained on a cache; None if there is none."""
    for run in reversed(list_runs(runs_dir)):
        try:
            said = read_description(run / HEAD_FILE)
            if said["cache"]["fingerprint"] == cache.fingerprint and said["is_finished"]:
                return run
        except (FeatcacheError, LookupError, TypeError):
            continue  # a damaged run is no business of an audit
    return None


def require_run_of(run: Path, cache: Cache) -> None:
    """Refuse a head of another cache.

    Raises:
        CorruptError: If it cannot be read.
        MismatchError: If it is one.
    """
    head = load_head(run)
    if head.cache_fingerprint != cache.fingerprint:
        raise MismatchError(
            f"{run} was trained on another cache ({head.cache_path.name}) than {cache.path.name}. "
            f"Nothing was audited. Leave --run out, or name a run of this cache."
        )


def tested_without(
    run: Path,
    cache: Cache,
    seen: npt.NDArray[np.int64],
    *,
    device: str,
    cache_dir: Path,
) -> TestedWithout:
    """Test a head on the split "test", with and without some rows.

    Args:
        run: Its folder.
        cache: The cache that it was trained on, which was verified.
        seen: Rows of "test" to leave out.
        device: Where to compute.
        cache_dir: Folder of all caches.

    Raises:
        FeatcacheError: What `featcache.evaluate` raises.
    """
    outputs = outputs_of(
        run,
        split="test",
        cache=cache.path,
        device=device,
        cache_dir=cache_dir,
        on_note=silent,
        sound=[cache.path],
    )
    right = outputs.predictions == outputs.labels
    left_out = {cache["test"].ids[row] for row in seen.tolist()}
    is_kept = np.array([image_id not in left_out for image_id in outputs.ids], np.bool_)
    without = float(right[is_kept].mean()) if is_kept.any() else None
    return TestedWithout(run, float(right.mean()), len(right), without, int(is_kept.sum()))
