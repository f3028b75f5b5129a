"""What `extract` did, as its caller is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.store import open_cache, read_state

if TYPE_CHECKING:
    from featcache.extraction.cost import CostAccount
    from featcache.extraction.plan import Plan
    from featcache.extraction.run import Made


@dataclass(frozen=True)
class Failure:
    """An image that could not be read.

    Attributes:
        split: Its split.
        id: Its path within the dataset, or its index.
        reason: Why.
    """

    split: str
    id: str
    reason: str


@dataclass(frozen=True)
class ExtractResult:
    """What `extract` did.

    Attributes:
        path: The cache file.
        outcome: "computed", "resumed" (a partial file was completed) or "reused" (nothing to do).
        fingerprint: 64 hex digits.
        n_rows: Rows of all splits.
        n_rows_computed: Rows that this run computed.
        n_features: D.
        nbytes: Size of the file.
        failures: Images that could not be read; their rows are marked invalid.
        seconds: Wall time of this call.
        seconds_by_phase: Its parts "read", "preprocess", "trunk", "check" and "write" (waiting for
            it).
        images_per_s: Rate of the computed rows, from the first batch to the last acknowledged row;
            0 if there are none. The time is wall time, minus the time spent only on the other
            caches of the pass.
        choices: What was chosen automatically, with the reason.
        account: What the cache saves; None for `pixels`, or if nothing was computed.
    """

    path: Path
    outcome: str
    fingerprint: str
    n_rows: int
    n_rows_computed: int
    n_features: int
    nbytes: int
    failures: tuple[Failure, ...]
    seconds: float
    seconds_by_phase: Mapping[str, float]
    images_per_s: float
    choices: Mapping[str, str]
    account: CostAccount | None


def reused(path: Path, choices: Mapping[str, str], *, seconds: float) -> ExtractResult:
    """Say that a cache was there.

    Args:
        path: The cache.
        choices: What was chosen automatically, with the reason.
        seconds: Wall time of the whole call.
    """
    cache = open_cache(path)
    return ExtractResult(
        path=path,
        outcome="reused",
        fingerprint=cache.fingerprint,
        n_rows=sum(split.n_rows for split in cache.splits.values()),
        n_rows_computed=0,
        n_features=cache.n_features,
        nbytes=read_state(path).manifest.file_size,
        failures=tuple(
            Failure(split.name, image_id, reason)
            for split in cache.splits.values()
            for image_id, reason in split.failures.items()
        ),
        seconds=seconds,
        seconds_by_phase={},
        images_per_s=0.0,
        choices=choices,
        account=None,
    )


def result_of(plan: Plan, made: Made | None, *, seconds: float) -> ExtractResult:
    """Say what became of a plan.

    Args:
        plan: What was decided; its cache is complete.
        made: How it came to be; None if it was there.
        seconds: Wall time of the whole call.
    """
    found = reused(plan.path, plan.choices, seconds=seconds)
    if made is None:
        return found
    n_computed, (fill_s, by_phase, n_images) = made.n_rows_computed, made.filled
    account = None
    splits = plan.dataset.splits
    if n_computed and plan.has_backbone and "train" in splits:
        from featcache.extraction.cost import cost_account

        account = cost_account(
            seconds_per_image=fill_s / n_images,
            n_images=plan.n_images,
            n_train=len(splits["train"]),
            n_features=found.n_features,
            device=plan.device,
        )
    return replace(
        found,
        outcome="resumed" if made.is_resumed else "computed",
        n_rows_computed=n_computed,
        seconds_by_phase=by_phase,
        images_per_s=n_computed / fill_s if fill_s else 0.0,
        choices={**plan.choices, **made.choices},
        account=account,
    )
