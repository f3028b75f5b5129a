"""The parts in a folder: which are there, which are missing, and which are not of its plan."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from featcache.core.paths import expanded
from featcache.core.side_files import is_parts_folder, partial_path
from featcache.errors import FeatcacheError, MismatchError
from featcache.scale.part_checks import checked_part, other_numerics, strangers_in
from featcache.scale.plan_file import NAME, PartsPlan, read_plan
from featcache.scale.shares import Share, array_of
from featcache.store import read_state

COMPLETE, MISSING, EMPTY, OTHER_NUMERICS = "complete", "missing", "empty", "other numerics"


@dataclass(frozen=True)
class PartState:
    """One share of a folder of parts.

    Attributes:
        index: Of the share, from 0.
        path: Where its part is, or will be; the folder where it is empty. A URL of what lies in an
            object store, as all paths of its folder are.
        state: "complete", "incomplete", "missing", "empty" (it has no blocks), "damaged",
            "stranger" (it is not of this plan), or "other numerics" (it is complete, but another
            kind of machine computed it; a merge takes it with `mix_numerics`).
        n_rows: Rows of the share.
        n_rows_done: Rows that are written.
        nbytes: Size of the part.
        problem: What is wrong with it.
    """

    index: int
    path: Path | str
    state: str
    n_rows: int = 0
    n_rows_done: int = 0
    nbytes: int = 0
    problem: str = ""

    @property
    def is_there(self) -> bool:
        """Whether nothing of it is to be computed."""
        return self.state in (COMPLETE, EMPTY, OTHER_NUMERICS)


@dataclass(frozen=True)
class PartsDescription:
    """What `describe_parts` finds.

    Attributes:
        folder: Of the parts.
        cache: Where they are merged to; the seal, of those in an object store.
        state: "complete" or "incomplete".
        dataset: Name of the dataset.
        backbone: Name of the backbone.
        n_features: D.
        fingerprint: Of the whole cache, 64 hex digits.
        n_shares: How many shares there are.
        n_rows: Rows of all.
        n_rows_done: Rows that are written.
        nbytes: Size of all parts.
        parts: One for each share.
        strangers: Files that are parts, but not of this plan.
        missing: Numbers of the shares that are not complete, as SLURM's --array takes them.
        command: What computes the first of them; where none is missing, what merges the parts,
            with --mix-numerics where that is needed.
    """

    folder: Path | str
    cache: Path | str
    state: str
    dataset: str
    backbone: str
    n_features: int
    fingerprint: str
    n_shares: int
    n_rows: int
    n_rows_done: int
    nbytes: int
    parts: tuple[PartState, ...]
    strangers: tuple[Path | str, ...]
    missing: str
    command: str


def describe_parts(folder: str | os.PathLike[str], *, reads_rows: bool = False) -> PartsDescription:
    """Say which parts of a cache are there, and whether they are of its plan.

    Args:
        folder: That of the parts.
        reads_rows: Hold all but the features against the plan, as a merge does: labels, ids,
            digests of images, statistics, reference rows. By default, only heads are read.

    Raises:
        CacheMissingError: If the folder has no plan.
        CorruptError: If the plan is damaged.
    """
    plan = read_plan(expanded(folder))
    parts = tuple(_state_of(plan, i, reads_rows=reads_rows) for i in range(plan.n_shares))
    return described(
        plan, parts, folder=plan.folder, cache=plan.whole, strangers=tuple(strangers_in(plan))
    )


def described(
    plan: PartsPlan,
    parts: tuple[PartState, ...],
    *,
    folder: Path | str,
    cache: Path | str,
    strangers: tuple[Path | str, ...],
    cache_dir: str | None = None,
) -> PartsDescription:
    """Describe a folder whose shares are in these states, here or in an object store.

    Args:
        plan: Its plan.
        parts: One for each share.
        folder: Where it is.
        cache: Where the whole is, or what is said of it.
        strangers: Parts there that are not of the plan.
        cache_dir: Where a missing share is put, if not beside the plan.
    """
    missing = [part.index for part in parts if not part.is_there]
    mixed = "--mix-numerics " if any(part.state == OTHER_NUMERICS for part in parts) else ""
    command = f"featcache cache merge {mixed}{shlex.quote(str(folder))}"
    if missing:
        command = plan.command(Share(missing[0], plan.n_shares), cache_dir=cache_dir)
    return PartsDescription(
        folder=folder,
        cache=cache,
        state="incomplete" if missing else COMPLETE,
        dataset=plan.manifest.provenance.dataset,
        backbone=plan.identity.backbone,
        n_features=next(iter(plan.manifest.splits.values())).columns["features"].n_values,
        fingerprint=plan.identity.fingerprint,
        n_shares=plan.n_shares,
        n_rows=plan.n_rows,
        n_rows_done=sum(part.n_rows_done for part in parts),
        nbytes=sum(part.nbytes for part in parts),
        parts=parts,
        strangers=strangers,
        missing=array_of(missing),
        command=command,
    )


def list_parts(cache_dir: str | os.PathLike[str]) -> list[Path]:
    """List the folders of parts below a folder of caches, by path."""
    return sorted(path.parent for path in expanded(cache_dir).glob(f"*/*.parts/{NAME}"))


def is_folder_of_parts(name: str | os.PathLike[str]) -> bool:
    """Tell whether a name is the path of a folder of parts."""
    path = expanded(name or ".")
    is_one = is_parts_folder(path) or os.path.exists(path / NAME)  # noqa: PTH110 - Path.exists raises
    return is_one and os.path.isdir(path)  # noqa: PTH112 - likewise


def _state_of(plan: PartsPlan, index: int, *, reads_rows: bool) -> PartState:
    first, stop = plan.blocks(index)
    if first == stop:
        return PartState(index, plan.folder, EMPTY)
    path = plan.part(index)
    n_rows = sum(b.stop - b.start for b in plan.manifest.blocks(first, stop))
    try:
        if path.exists():
            with checked_part(plan, index, mix_numerics=True, reads_rows=reads_rows) as part:
                nbytes, differing = part.state.manifest.file_size, other_numerics(plan, part)
                word = OTHER_NUMERICS if differing else COMPLETE
                return PartState(index, path, word, n_rows, n_rows, nbytes, differing)
        partial = partial_path(path)
        if not partial.exists():
            return PartState(index, path, MISSING, n_rows)
        state = read_state(partial)
        nbytes = state.manifest.file_size
        return PartState(index, partial, "incomplete", n_rows, state.n_rows_done, nbytes)
    except FeatcacheError as err:
        word = "stranger" if isinstance(err, MismatchError) else "damaged"
        return PartState(index, path, word, n_rows, problem=str(err))
