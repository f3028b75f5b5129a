"""Join the parts of a cache to the file that a single process would have written."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from featcache.config import ExtractSpec
from featcache.core.identity import differing_fields
from featcache.core.paths import expanded
from featcache.core.reporting import NoteCallback, silent
from featcache.core.side_files import partial_path
from featcache.core.starting import ANY_START, starting
from featcache.core.stopping import stop_if_asked, working
from featcache.errors import InterruptedRunError, MismatchError
from featcache.extraction.result import Failure, reused
from featcache.scale.part_checks import (
    checked_part,
    damaged_part,
    require_all,
    require_no_strangers,
    require_part,
)
from featcache.scale.plan_file import PartsPlan, read_plan
from featcache.store import CacheWriter, locked, open_cache, read_state, require_identity
from featcache.store.hdf5_file import plan_of
from featcache.store.merging import OpenPart, copy_block

_BLOCKS_PER_COMMIT = 64

MergeProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class MergeResult:
    """What `merge_parts` did.

    Attributes:
        path: The cache.
        outcome: "merged", "resumed" (a merge that was stopped was completed) or "reused" (the cache
            was there).
        fingerprint: 64 hex digits.
        n_rows: Rows of all splits.
        n_features: D.
        n_shares: Shares that were joined, empty ones included.
        n_foreign_blocks: Blocks that another numeric class computed (--mix-numerics).
        nbytes: Size of the file.
        failures: Images that could not be read; their rows are marked invalid.
        seconds: Wall time of this call.
    """

    path: Path
    outcome: str
    fingerprint: str
    n_rows: int
    n_features: int
    n_shares: int
    n_foreign_blocks: int
    nbytes: int
    failures: tuple[Failure, ...]
    seconds: float


@starting(*ANY_START)
def merge_parts(
    folder: str | os.PathLike[str],
    *,
    mix_numerics: bool = ExtractSpec.mix_numerics,
    on_progress: MergeProgress | None = None,
    on_note: NoteCallback | None = None,
) -> MergeResult:
    """Join the parts of a cache: byte for byte the file that one process would have written.

    Every byte of every part is read, compared with its digest, and written once. The parts stay.
    A merge that was stopped goes on with the same call.

    Args:
        folder: That of the parts, beside the place of the cache.
        mix_numerics: Take blocks that another numeric class computed; their last digits may differ.
        on_progress: Called with (blocks done, blocks to do).
        on_note: Called with a sentence for each choice that was made.

    Raises:
        CacheMissingError: If shares are missing, or there is no plan.
        MismatchError: If a part is not of the plan, or of another numeric class.
        CorruptError: If a part is damaged.
        DiskFullError: If the disk cannot hold the cache.
        LockedError: If another process writes it.
    """
    started = time.perf_counter()
    plan = read_plan(expanded(folder))
    with locked(plan.whole):
        outcome = _merge(
            plan,
            mix_numerics=mix_numerics,
            on_progress=on_progress or (lambda _, __: None),
            on_note=on_note or silent,
        )
    state, found = read_state(plan.whole), reused(plan.whole, {}, seconds=0.0)
    return MergeResult(
        path=plan.whole,
        outcome=outcome,
        fingerprint=found.fingerprint,
        n_rows=found.n_rows,
        n_features=found.n_features,
        n_shares=plan.n_shares,
        n_foreign_blocks=len(state.foreign_blocks),
        nbytes=found.nbytes,
        failures=found.failures,
        seconds=time.perf_counter() - started,
    )


def _merge(
    plan: PartsPlan, *, mix_numerics: bool, on_progress: MergeProgress, on_note: NoteCallback
) -> str:
    if plan.whole.exists():
        require_identity(plan.whole, open_cache(plan.whole).identity, plan.identity)
        on_note("the cache is complete: its parts are no longer needed")
        return "reused"
    require_no_strangers(plan)
    for index in plan.filled:  # before a file is made
        stop_if_asked()
        if plan.part(index).exists():
            require_part(plan, index, mix_numerics=mix_numerics)
    require_all(plan)
    is_resumed = partial_path(plan.whole).exists()
    try:
        with working(), _writer(plan, on_note) as writer:
            pending = {block.slot for block in writer.pending()}
            for index in plan.filled:
                with checked_part(plan, index, mix_numerics=mix_numerics, reads_rows=True) as part:
                    _copy(plan, index, part, writer, pending, on_progress)
            writer.finish()
    except KeyboardInterrupt as err:
        raise InterruptedRunError(
            "Stopped. The blocks that were copied are kept. The same command goes on from there."
        ) from err
    return "resumed" if is_resumed else "merged"


@contextlib.contextmanager
def _writer(plan: PartsPlan, on_note: NoteCallback) -> Iterator[CacheWriter]:
    """Make the file of the whole, or go on with it."""
    if not partial_path(plan.whole).exists():
        opened = CacheWriter.create(plan.whole, plan_of(plan.manifest), {})
    else:
        opened = CacheWriter.resume(plan.whole, {})
    with opened as writer:
        found, wanted = (m.to_bytes().decode() for m in (writer.manifest, plan.manifest))
        if found != wanted:
            _refuse_other_run(plan, writer)
        for block in writer.recheck():
            on_note(
                f"{block.split} rows {block.start} to {block.stop - 1} were damaged on the disk; "
                f"they are copied again"
            )
        if plan.statistics is not None and writer.read_statistics() is None:
            writer.write_statistics(plan.statistics)
        if plan.reference is not None and writer.read_reference() is None:
            writer.write_reference(plan.reference)
        yield writer


def _refuse_other_run(plan: PartsPlan, writer: CacheWriter) -> None:
    found, wanted = writer.manifest, plan.manifest
    differing = [
        *differing_fields(found.identity, wanted.identity),
        *differing_fields(found.numerics, wanted.numerics),
        *differing_fields(found.provenance, wanted.provenance),
        *differing_fields(found.rows_per_block, wanted.rows_per_block),
    ]
    raise MismatchError(
        f"{writer.file} was begun by a run that is not of these parts "
        f"({'; '.join(differing) or 'its layout differs'}). Nothing was changed. Let featcache "
        f"extract complete it, or remove it: featcache cache rm {shlex.quote(str(plan.whole))}"
    )


def _copy(
    plan: PartsPlan,
    index: int,
    part: OpenPart,
    writer: CacheWriter,
    pending: Container[int],
    on_progress: MergeProgress,
) -> None:
    """Copy the blocks of a share whose slots are pending."""
    first, stop = plan.blocks(index)
    numeric_id, n_waiting = b"", 0
    both = zip(plan.manifest.blocks(first, stop), part.blocks, strict=True)
    for number, (block, of_part) in enumerate(both, first + 1):
        stop_if_asked()
        own_id = part.slot(of_part).numeric_id
        if n_waiting and (own_id != numeric_id or n_waiting == _BLOCKS_PER_COMMIT):
            writer.commit(numeric_id=numeric_id)
            n_waiting = 0
        if block.slot in pending:
            if not copy_block(writer, block, part, of_part):
                rows = f"{of_part.split} rows {of_part.start} to {of_part.stop - 1}"
                raise damaged_part(plan, index, f"the SHA-256 of {rows} is not as written")
            numeric_id, n_waiting = own_id, n_waiting + 1
        on_progress(number, plan.manifest.n_blocks)
    if n_waiting:
        writer.commit(numeric_id=numeric_id)
