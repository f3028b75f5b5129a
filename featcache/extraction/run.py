"""Make planned caches: files new or resumed, in as few passes over the images as can be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from featcache.core.plain_torch import plain_torch
from featcache.core.reporting import NoteCallback
from featcache.core.stopping import working
from featcache.errors import InterruptedRunError, counted
from featcache.extraction.expected_file import require_same_file
from featcache.extraction.fill import Filled, Target, fill
from featcache.extraction.job import Job
from featcache.extraction.plan import Plan
from featcache.extraction.prepare import adapt, check_canaries, rows_not_decoded
from featcache.extraction.progress import Progress, ProgressCallback
from featcache.extraction.reference_rows import compare_reference, complete_reference
from featcache.store import (
    CacheWriter,
    near_misses,
    partial_path,
)

Filling = Callable[[Sequence[Target]], list[Filled]]
"""Computes and writes the pending blocks of caches that share their reading, as `fill` does."""


@dataclass(frozen=True)
class Made:
    """How a cache came to be.

    Attributes:
        is_resumed: Whether a partial file was there.
        n_rows_computed: Rows that were not there before.
        filled: What that took.
        choices: What its job chose, with the reason.
    """

    is_resumed: bool
    n_rows_computed: int
    filled: Filled
    choices: Mapping[str, str]


@dataclass(eq=False)
class _Begun:
    """A cache that is to be filled; its writer is None until a new file is made."""

    job: Job
    writer: CacheWriter | None = None
    n_rows_before: int = 0


@plain_torch()
def make_caches(
    plans: Sequence[Plan],
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
    filling: Filling = fill,
) -> list[Made]:
    """Compute what is missing of each; the caller holds the locks.

    Args:
        plans: The caches.
        on_progress: Called after each batch.
        on_note: Told each choice.
        filling: Computes the rows; all before that is done here.

    Raises:
        InterruptedRunError: At Ctrl-C; all acknowledged rows are kept.
        FeatcacheError: Whatever else stops it; likewise.
    """
    begun: list[_Begun] = []
    with contextlib.ExitStack() as files:
        try:
            for plan in plans:  # nothing is written yet
                begun.append(_begin(plan, files, on_progress=on_progress, on_note=on_note))  # noqa: PERF401 - at Ctrl-C those begun are told
            with working():
                writers = [_writer(one, files) for one in begun]
                of_each = zip(begun, writers, strict=True)
                targets = [_target(one, writer, on_note=on_note) for one, writer in of_each]
                filled = _fill_in_passes(targets, filling, on_note)
        except KeyboardInterrupt as err:
            kept = "; ".join(_kept(one) for one in begun if one.writer) or "Nothing was begun"
            raise InterruptedRunError(
                f"Stopped. {kept}. The same command goes on from there."
            ) from err
        return [
            Made(
                is_resumed=one.job.is_resumed,
                n_rows_computed=one.job.plan.n_rows - one.n_rows_before,
                filled=filled[target],
                choices=one.job.choices,
            )
            for one, target in zip(begun, targets, strict=True)
        ]


def _begin(
    plan: Plan,
    files: contextlib.ExitStack,
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> _Begun:
    """Open the partial file, or decide how a new one is filled; `files` closes it."""
    if partial_path(plan.path).exists() or plan.path.exists():
        writer = files.enter_context(CacheWriter.resume(plan.path, plan.rows()))
        _recheck(plan, writer, on_progress=on_progress, on_note=on_note)
        job = Job.resume(plan, writer, on_progress=on_progress, on_note=on_note)
        return _Begun(job, writer, _n_rows(writer))
    others = near_misses(plan.path, plan.identity)
    if others:
        nearest, differing = others[0]
        on_note(f"{nearest.name} is a similar cache; it differs in {'; '.join(differing)}")
    return _Begun(Job.begin(plan, on_progress=on_progress, on_note=on_note))


def _writer(begun: _Begun, files: contextlib.ExitStack) -> CacheWriter:
    """Make the file that is not there yet."""
    if begun.writer is None:
        plan = begun.job.plan
        writer = CacheWriter.create(plan.path, begun.job.file_plan(), plan.rows())
        begun.writer = files.enter_context(writer)
    return begun.writer


def _recheck(
    plan: Plan, writer: CacheWriter, *, on_progress: ProgressCallback, on_note: NoteCallback
) -> None:
    require_same_file(writer.file, writer.manifest, plan)
    damaged = writer.recheck(on_progress=lambda i, n: on_progress(Progress("check", "", i, n)))
    for block in damaged:
        on_note(
            f"{block.split} rows {block.start} to {block.stop - 1} were damaged on the disk; "
            f"they are computed again"
        )
    if plan.spec.skip_undecodable:
        return
    for block in writer.acknowledged():
        if rows := rows_not_decoded(writer, block.split, block.start, block.stop):
            on_note(
                f"{block.split} rows {block.start} to {block.stop - 1} hold {len(rows)} that could "
                f"not be decoded where they were computed; they are computed again"
            )
            writer.forget(block)


def _target(begun: _Begun, writer: CacheWriter, *, on_note: NoteCallback) -> Target:
    """Make the backbone ready, and see that it is the one that began the file."""
    if begun.job.plan.spec.bn == "adapted":
        adapt(begun.job, writer)
    compare_reference(begun.job, writer)
    if begun.n_rows_before:
        n_same = check_canaries(begun.job, writer)
        on_note(
            f"resuming: {counted(begun.n_rows_before, 'row')} kept, {n_same} recomputed and found "
            f"the same"
        )
    complete_reference(begun.job, writer)  # not before its rows are known to be of this backbone
    return Target(begun.job, writer)


def _fill_in_passes(
    targets: Sequence[Target], filling: Filling, on_note: NoteCallback
) -> dict[Target, Filled]:
    """Fill and finish all, those together that can share their reading."""
    passes: list[list[Target]] = []
    for target in targets:
        shared = next((p for p in passes if p[0].can_share(target)), None)
        if shared is None:
            passes.append([target])
        else:
            shared.append(target)
    if len(passes) > 1:
        on_note(
            f"{len(passes)} passes over the images: not all backbones prepare or batch them alike"
        )
    filled: dict[Target, Filled] = {}
    for together in passes:
        filled |= zip(together, filling(together), strict=True)
        for target in together:
            target.writer.finish()
    return filled


def _kept(begun: _Begun) -> str:
    assert begun.writer is not None, "it has a file"
    n_rows = _n_rows(begun.writer)
    return f"{n_rows} of {counted(begun.job.plan.n_rows, 'row')} are kept in {begun.writer.file}"


def _n_rows(writer: CacheWriter) -> int:
    return sum(block.stop - block.start for block in writer.acknowledged())
