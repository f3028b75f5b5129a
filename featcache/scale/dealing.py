"""All shares of a cache as tasks that another program deals to its machines; knows no such one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featcache.config import ExtractSpec
from featcache.core.paths import settled
from featcache.core.reporting import NoteCallback
from featcache.core.stopping import working
from featcache.core.store_urls import is_in_store
from featcache.core.workers.messages import read_error, written_error
from featcache.errors import (
    CacheMissingError,
    DeviceError,
    FeatcacheError,
    InterruptedRunError,
    LockedError,
)
from featcache.extraction.progress import Progress, ProgressCallback
from featcache.scale.extract_share import extract_share
from featcache.scale.parts import PartsDescription, describe_parts
from featcache.scale.share_result import ShareResult
from featcache.scale.shares import PLAN, RAY

_LOCKED_AT_MOST_S = 60.0
_LOOKS_EVERY_S = 0.2


@dataclass(frozen=True)
class ShareTask:
    """One share, for a process anywhere.

    Attributes:
        spec: The fields of the `ExtractSpec`.
        share: As `extract_share` takes it.
        wait: As in `ShareSpec`.
        folder: Where paths begin that are not absolute; a machine may not have it.
    """

    spec: dict[str, Any]
    share: str
    wait: float
    folder: str


Answer = ShareResult | str
"""What a task did, or the refusal as text."""
RunTasks = Callable[[Iterable[ShareTask]], Iterator[Answer]]
"""Runs tasks on machines, and gives their answers in any order."""


def run_task(task: ShareTask) -> Answer:
    """Compute the share of a task in this process.

    A refusal is an answer: another try on another machine would be refused again. A device that
    failed is an error, since another try may mend it. So is whatever ends the process. A share
    that is still locked by a process that was given up is waited for.

    Raises:
        DeviceError: If a device fails.
    """
    with contextlib.suppress(OSError):
        os.chdir(task.folder)
    began_s = time.monotonic()
    while True:
        try:
            return extract_share(ExtractSpec(**task.spec), share=task.share, wait=task.wait)
        except DeviceError:
            raise
        except LockedError as err:
            if time.monotonic() - began_s > _LOCKED_AT_MOST_S:
                return written_error(err)
            time.sleep(_LOOKS_EVERY_S)
        except FeatcacheError as err:
            return written_error(err)


def deal(
    spec: ExtractSpec,
    n_shares: int,
    workers: RunTasks,
    *,
    wait: float,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> ShareResult:
    """Plan the shares, and let workers compute those that are not there yet.

    The first refusal ends it. What was computed stays, and the next call goes on from there.

    Raises:
        CacheMissingError: If a part is not in this machine's folder when all are done.
        FeatcacheError: As `extract_share` raises them, on any machine.
    """
    data_dir, cache_dir = str(settled(spec.data_dir)), spec.cache_dir
    if not is_in_store(cache_dir):
        cache_dir = str(settled(cache_dir))
    said = asdict(replace(spec, cache_dir=cache_dir, data_dir=data_dir))
    here = str(Path.cwd())

    def results(shares: Iterable[str]) -> Iterator[ShareResult]:
        for answer in workers(ShareTask(said, share, wait, here) for share in shares):
            if isinstance(answer, str):
                raise read_error(answer.encode())
            yield answer

    try:
        with working():
            [planned] = results([f"{PLAN}/{n_shares}"])
            if planned.outcome == "reused":  # the cache is complete
                return replace(planned, share=f"{RAY}/{n_shares}")
            where = planned.path
            folder = where.parent if isinstance(where, Path) else where.rpartition("/")[0]
            before = _seen_here(folder, on_note)
            lacking = [part.index for part in before.parts if not part.is_there]
            n_there = n_shares - len(lacking)
            on_note(f"{n_there} of {n_shares} shares are there; computing {len(lacking)}")
            done: list[ShareResult] = []
            for result in results(f"{index}/{n_shares}" for index in lacking):
                done.append(result)
                on_progress(Progress("shares", "", n_there + len(done), n_shares))
    except KeyboardInterrupt as err:
        raise InterruptedRunError(
            "Stopped. Complete shares are kept, and all acknowledged blocks of the others. The "
            "same command goes on from there."
        ) from err
    return _gathered(_seen_here(folder, on_note, is_done=True), done)


def _seen_here(
    folder: Path | str, on_note: NoteCallback, *, is_done: bool = False
) -> PartsDescription:
    """Look at the parts from this machine.

    Raises:
        CacheMissingError: If the machines of the tasks write into other folders than this one's.
    """
    with contextlib.suppress(CacheMissingError):
        found = _described(folder, on_note)
        if not (is_done and found.missing):
            return found
    raise CacheMissingError(
        f"The shares were computed, but on this machine they are not in {folder}. Nothing was "
        f"removed. Give a --cache-dir that is the same folder on all machines of the cluster."
    )


def _described(folder: Path | str, on_note: NoteCallback) -> PartsDescription:
    if isinstance(folder, Path):
        return describe_parts(folder)
    # Without the extra there is nothing to import there.
    from featcache.scale.remote.describe_there import describe_there

    return describe_there(folder, on_note=on_note)


def _gathered(found: PartsDescription, done: list[ShareResult]) -> ShareResult:
    """Sum up what all tasks did."""
    n_computed = sum(result.n_rows_computed for result in done)
    is_resumed = n_computed < found.n_rows
    return ShareResult(
        f"{RAY}/{found.n_shares}",
        ("resumed" if is_resumed else "computed") if n_computed else "reused",
        found.folder,
        n_rows=found.n_rows,
        n_rows_computed=n_computed,
        nbytes=found.nbytes,
        failures=tuple(failure for result in done for failure in result.failures),
        choices=dict(done[0].choices) if done else {},
        next=found.command,
    )
