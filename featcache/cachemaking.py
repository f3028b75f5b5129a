"""Make planned caches: files new or resumed, in as few passes over the images as can be."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.errors import CorruptError, InterruptedRunError
from featcache.filling import Target, fill
from featcache.memory import freed_memory_kept
from featcache.pipeline import Job, Progress, ProgressCallback, adapt, check_canaries
from featcache.plan import Plan
from featcache.runtime import NoteCallback
from featcache.specs import differing_fields
from featcache.store import (
    CacheWriter,
    Extent,
    Manifest,
    near_misses,
    partial_path,
    require_identity,
)


@dataclass(frozen=True)
class Made:
    """How a cache came to be.

    Attributes:
        is_resumed: Whether a partial file was there.
        n_rows_computed: Rows that were not there before.
        seconds: By "read", "preprocess", "trunk" and "write".
    """

    is_resumed: bool
    n_rows_computed: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class _Begun:
    """An open partial file; its job is None until a resumed file has said how it was begun."""

    plan: Plan
    writer: CacheWriter
    job: Job | None
    n_rows_before: int


def make_caches(
    plans: Sequence[Plan], *, progress: ProgressCallback, note: NoteCallback
) -> list[Made]:
    """Compute what is missing of each; the caller holds the locks.

    Raises:
        InterruptedRunError: At Ctrl-C; all acknowledged rows are kept.
        FeatcacheError: Whatever else stops it; likewise.
    """
    begun: list[_Begun] = []
    with contextlib.ExitStack() as files:
        try:
            with freed_memory_kept():
                for plan in plans:
                    begun.append(_begin(plan, files, progress=progress, note=note))  # noqa: PERF401 - at Ctrl-C those begun are told
                targets = [_target(one, progress=progress, note=note) for one in begun]
                seconds = _fill_in_passes(targets, note)
        except KeyboardInterrupt as err:
            kept = "; ".join(map(_kept, begun)) or "Nothing was begun"
            raise InterruptedRunError(
                f"Stopped. {kept}. The same command goes on from there."
            ) from err
        return [
            Made(one.job is None, one.plan.n_rows - one.n_rows_before, seconds[target])
            for one, target in zip(begun, targets, strict=True)
        ]


def require_same_file(path: Path, found: Manifest, plan: Plan) -> None:
    """Refuse a file in a cache's place that is not the one which is planned.

    Raises:
        MismatchError: If it holds something else, with the fields that differ.
        CorruptError: If it says that it holds the same, but is laid out as no run would do it.
    """
    require_identity(path, found.identity, plan.identity)
    there = {name: split.columns for name, split in found.splits.items()}
    wanted = {name: split.columns() for name, split in plan.splits().items()}
    statistics = None if found.statistics is None else found.statistics.entries
    differing = differing_fields(
        _layout(found.class_names, there, statistics),
        _layout(plan.dataset.class_names, wanted, plan.statistics()),
    )
    if differing:
        raise CorruptError(
            f"{path} has the identity of what was asked for, but not its layout: "
            f"{'; '.join(differing)}. No featcache wrote it so. Nothing was changed. Remove it "
            f"(featcache cache rm {path}) and run again."
        )


def _layout(
    class_names: Sequence[str], splits: Mapping[str, Mapping[str, Extent]], statistics: object
) -> dict[str, object]:
    return {
        "class_names": class_names,
        "splits": list(splits),
        **{
            name: {column: [*e.shape, e.dtype] for column, e in columns.items()}
            for name, columns in splits.items()
        },
        "statistics": statistics,
    }


def _begin(
    plan: Plan,
    files: contextlib.ExitStack,
    *,
    progress: ProgressCallback,
    note: NoteCallback,
) -> _Begun:
    """Open the partial file, or make it; `files` closes it."""
    if partial_path(plan.path).exists() or plan.path.exists():
        writer = files.enter_context(CacheWriter.resume(plan.path, plan.rows()))
        _recheck(plan, writer, progress=progress, note=note)
        return _Begun(plan, writer, None, _n_rows(writer))
    others = near_misses(plan.path, plan.identity)
    if others:
        nearest, differing = min(others, key=lambda other: len(other[1]))
        note(f"{nearest.name} is another cache: {'; '.join(differing)}")
    job = plan.new_job(on_progress=progress, on_note=note)
    writer = CacheWriter.create(plan.path, plan.file_plan(job), plan.rows())
    return _Begun(plan, files.enter_context(writer), job, 0)


def _recheck(
    plan: Plan, writer: CacheWriter, *, progress: ProgressCallback, note: NoteCallback
) -> None:
    require_same_file(writer.file, writer.manifest, plan)
    damaged = writer.recheck(on_progress=lambda i, n: progress(Progress("check", "", i, n)))
    for block in damaged:
        note(
            f"{block.split} rows {block.start} to {block.stop - 1} were damaged on the disk; "
            f"they are computed again"
        )


def _target(begun: _Begun, *, progress: ProgressCallback, note: NoteCallback) -> Target:
    """Make the trunk ready, and see that it is the one that began the file."""
    job = begun.job or begun.plan.resumed_job(begun.writer, on_progress=progress, on_note=note)
    if begun.plan.spec.bn == "adapted":
        adapt(job, begun.writer)
    if begun.job is None:
        n_same = check_canaries(job, begun.writer)
        note(f"resuming: {begun.n_rows_before} rows kept, {n_same} recomputed and found the same")
    return Target(job, begun.writer)


def _fill_in_passes(
    targets: Sequence[Target], note: NoteCallback
) -> dict[Target, Mapping[str, float]]:
    """Fill and finish all, those together that can share their reading."""
    passes: list[list[Target]] = []
    for target in targets:
        shared = next((p for p in passes if p[0].can_share(target)), None)
        if shared is None:
            passes.append([target])
        else:
            shared.append(target)
    if len(passes) > 1:
        note(f"{len(passes)} passes over the images: not all trunks prepare or batch them alike")
    seconds: dict[Target, Mapping[str, float]] = {}
    for together in passes:
        seconds |= zip(together, fill(together), strict=True)
        for target in together:
            target.writer.finish()
    return seconds


def _kept(begun: _Begun) -> str:
    n_rows = _n_rows(begun.writer)
    return f"{n_rows} of {begun.plan.n_rows} rows are kept in {begun.writer.file}"


def _n_rows(writer: CacheWriter) -> int:
    return sum(block.stop - block.start for block in writer.acknowledged())
