"""Stage one: images through a frozen trunk into a cache."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.account import CostAccount, cost_account
from featcache.errors import InterruptedRunError, MismatchError
from featcache.pipeline import Progress, ProgressCallback, adapt, check_canaries, fill
from featcache.planning import Plan, make_plan
from featcache.runtime import NoteCallback, freed_memory_kept, silent
from featcache.specs import ExtractSpec, differing_fields
from featcache.store import (
    CacheWriter,
    locked,
    near_misses,
    open_cache,
    partial_path,
    read_state,
)


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
        seconds_by_phase: Its parts "read", "preprocess", "trunk" and "write" (waiting for it).
        images_per_s: Rate of the computed rows; 0 if there are none.
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


def extract(
    dataset: str = ExtractSpec.dataset,
    *,
    backbone: str = ExtractSpec.backbone,
    weights: str = ExtractSpec.weights,
    bn: str = ExtractSpec.bn,
    preprocess: str = ExtractSpec.preprocess,
    image_size: int = ExtractSpec.image_size,
    precision: str = ExtractSpec.precision,
    store_dtype: str = ExtractSpec.store_dtype,
    device: str = ExtractSpec.device,
    batch_size: int | None = ExtractSpec.batch_size,
    n_workers: int | None = ExtractSpec.n_workers,
    limit: int | None = ExtractSpec.limit,
    seed: int = ExtractSpec.seed,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    compile: str = ExtractSpec.compile,
    mix_numerics: bool = ExtractSpec.mix_numerics,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> ExtractResult:
    """Run a dataset through a frozen trunk once and keep its features in one HDF5 file.

    The arguments are those of `ExtractSpec`, which says what each means. The same call goes on
    with a partial file and answers at once if the cache is complete.

    Args:
        dataset: "cifar10", "cifar100", "digits", "folder:PATH" or "torchvision:NAME".
        backbone: A torchvision classification model, or "pixels".
        weights: "DEFAULT", a torchvision weights name, a path, or "random".
        bn: "frozen" or "adapted".
        preprocess: "notebook" or "weights".
        image_size: Side of the trunk's input, in pixels.
        precision: "auto", "fp32", "tf32", "bf16" or "fp16".
        store_dtype: "float32" or "float16".
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch_size: Images in one forward pass; None means by free memory.
        n_workers: Decoding processes for image files; None means one a core, at most 8.
        limit: Images of each split, evenly spaced; None means all.
        seed: Seeds `weights="random"`.
        cache_dir: Folder of all caches.
        data_dir: Folder of downloaded datasets.
        compile: "auto", "always" or "never".
        mix_numerics: Go on with a partial file that another numeric class began.
        on_progress: Called after each batch.
        on_note: Called with a sentence for each choice that was made.

    Returns:
        The path of the cache, and how it came to be.

    Raises:
        FeatcacheError: One of its children, each with the exit code it means on a terminal.

    Example:
        >>> import featcache
        >>> result = featcache.extract("digits", backbone="pixels", limit=64, cache_dir=tmp)
        >>> result.outcome, result.n_rows
        ('computed', 128)
    """
    started = time.perf_counter()
    spec = ExtractSpec(
        dataset=dataset,
        backbone=backbone,
        weights=weights,
        bn=bn,
        preprocess=preprocess,
        image_size=image_size,
        precision=precision,
        store_dtype=store_dtype,
        device=device,
        batch_size=batch_size,
        n_workers=n_workers,
        limit=limit,
        seed=seed,
        cache_dir=os.fspath(cache_dir),
        data_dir=os.fspath(data_dir),
        compile=compile,
        mix_numerics=mix_numerics,
    )
    progress = on_progress or silent
    note = on_note or silent
    plan = make_plan(spec, on_progress=progress, on_note=note)
    if _is_complete(plan):
        return _result(plan, started=started, outcome="reused")
    with locked(plan.path):
        if _is_complete(plan):  # another process finished it meanwhile
            return _result(plan, started=started, outcome="reused")
        return _compute(plan, started=started, progress=progress, note=note)


def _is_complete(plan: Plan) -> bool:
    """Tell whether the cache is there; refuse a file of another identity in its place."""
    if not (plan.path.exists() or plan.path.is_symlink()):
        return False
    _require_identity(plan.path, open_cache(plan.path).identity, plan.identity)
    return True


def _require_identity(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = differing_fields(found, wanted)
    if differing:
        raise MismatchError(
            f"{path} holds something else than was asked for: {'; '.join(differing)}. Nothing was "
            f"changed. Move the file away, or choose another --cache-dir."
        )


def _compute(
    plan: Plan, *, started: float, progress: ProgressCallback, note: NoteCallback
) -> ExtractResult:
    partial = partial_path(plan.path)
    is_resumed = partial.exists()
    if is_resumed:
        writer = _reopen(plan, progress=progress, note=note)
    else:
        others = near_misses(plan.path, plan.identity)
        if others:
            nearest, differing = min(others, key=lambda other: len(other[1]))
            note(f"{nearest.name} is another cache: {'; '.join(differing)}")
        job = plan.new_job(on_progress=progress, on_note=note)
        writer = CacheWriter.create(plan.path, plan.file_plan(job), plan.rows())
    with writer:
        n_before = _n_rows(writer)
        try:
            if is_resumed:
                job = plan.resumed_job(writer, on_progress=progress, on_note=note)
            with freed_memory_kept():
                if plan.spec.bn == "adapted":
                    adapt(job, writer)
                if is_resumed:
                    n_same = check_canaries(job, writer)
                    note(f"resuming: {n_before} rows kept, {n_same} recomputed and found the same")
                seconds = fill(job, writer)
            writer.finish()
        except KeyboardInterrupt as err:
            raise InterruptedRunError(
                f"Stopped. {_n_rows(writer)} of {plan.n_rows} rows are kept in {partial}. The "
                f"same command goes on from there."
            ) from err
    return _result(
        plan,
        started=started,
        outcome="resumed" if is_resumed else "computed",
        n_computed=plan.n_rows - n_before,
        seconds_by_phase=seconds,
    )


def _reopen(plan: Plan, *, progress: ProgressCallback, note: NoteCallback) -> CacheWriter:
    writer = CacheWriter.resume(plan.path, plan.rows())
    try:
        _require_identity(partial_path(plan.path), writer.manifest.identity, plan.identity)
        damaged = writer.recheck(on_progress=lambda i, n: progress(Progress("check", "", i, n)))
        for block in damaged:
            note(
                f"{block.split} rows {block.start} to {block.stop - 1} were damaged on the disk; "
                f"they are computed again"
            )
    except BaseException:
        writer.close()
        raise
    return writer


def _n_rows(writer: CacheWriter) -> int:
    return sum(block.stop - block.start for block in writer.acknowledged())


def _result(
    plan: Plan,
    *,
    started: float,
    outcome: str,
    n_computed: int = 0,
    seconds_by_phase: Mapping[str, float] | None = None,
) -> ExtractResult:
    phases = dict(seconds_by_phase or {})
    work_s = sum(phases.values())
    cache = open_cache(plan.path)
    failures = tuple(
        Failure(split.name, image_id, reason)
        for split in cache.splits.values()
        for image_id, reason in split.failures.items()
    )
    account = None
    if n_computed and plan.has_trunk and "train" in cache.splits:
        account = cost_account(
            seconds_per_image=work_s / n_computed,
            n_images=plan.n_rows,
            n_train=cache["train"].n_rows,
            n_features=cache.n_features,
        )
    return ExtractResult(
        path=plan.path,
        outcome=outcome,
        fingerprint=cache.fingerprint,
        n_rows=plan.n_rows,
        n_rows_computed=n_computed,
        n_features=cache.n_features,
        nbytes=read_state(plan.path).manifest.file_size,
        failures=failures,
        seconds=time.perf_counter() - started,
        seconds_by_phase=phases,
        images_per_s=n_computed / work_s if work_s else 0.0,
        choices=plan.choices,
        account=account,
    )


__all__ = ["ExtractResult", "Failure", "Progress", "extract"]
