"""Hold the parts in a folder against their plan."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.identity import differing_fields
from featcache.core.side_files import finished_path
from featcache.errors import CacheMissingError, CorruptError, MismatchError
from featcache.scale.plan_file import PartsPlan
from featcache.scale.shares import Share, array_of
from featcache.store import FilePlan
from featcache.store.digest import block_digest, read_part
from featcache.store.hdf5_file import plan_of
from featcache.store.manifest import REFERENCE, TRUNK
from featcache.store.merging import OpenPart, known_sha256, opened_part, part_plan

_PART_OF = re.compile(r"part-\d+-of-(\d+)-")


def strangers_in(plan: PartsPlan) -> list[Path]:
    """List the files of a folder that are parts, but not of its plan."""
    own = {plan.part(index) for index in plan.filled}
    there = [*plan.folder.glob("part-*.h5"), *plan.folder.glob("part-*.h5.partial")]
    return sorted(path for path in there if finished_path(path) not in own)


def require_no_strangers(plan: PartsPlan) -> None:
    """Refuse a folder with parts that are not of its plan.

    Raises:
        MismatchError: Naming the first, and how it differs.
    """
    strangers = strangers_in(plan)
    if not strangers:
        return
    named = _PART_OF.match(strangers[0].name)
    how = "part: none of this plan has that name"
    if named and int(named[1]) != plan.n_shares:
        how = f"n_shares: found {int(named[1])}, wanted {plan.n_shares}"
    raise MismatchError(
        f"{strangers[0]} is not of {plan.path} ({how}). Nothing was changed. Remove it: rm "
        f"{shlex.quote(str(strangers[0]))}"
    )


def require_all(plan: PartsPlan) -> None:
    """Refuse a folder that lacks parts.

    Raises:
        CacheMissingError: With their numbers, and what computes them.
    """
    if missing := [index for index in plan.filled if not plan.part(index).is_file()]:
        array = array_of(missing)
        raise CacheMissingError(
            f"{plan.folder} lacks {len(missing)} of {plan.n_shares} shares: {array}. Nothing was "
            f"changed. On SLURM: sbatch --array={array} with the same script. Elsewhere: "
            f"{plan.command(Share(missing[0], plan.n_shares))}"
        )


@contextlib.contextmanager
def checked_part(
    plan: PartsPlan, index: int, *, mix_numerics: bool, reads_rows: bool
) -> Iterator[OpenPart]:
    """Open the part of a share, and hold it against the plan.

    Args:
        plan: The plan.
        index: Of the share, which has blocks.
        mix_numerics: Whether blocks of another numeric class are taken.
        reads_rows: Whether labels, ids and digests of images are held against it too, and the
            statistics and reference rows.

    Raises:
        MismatchError: If it is not of the plan, with the fields that differ.
        CorruptError: If it is damaged.
        CacheMissingError: If it is not there.
    """
    path = plan.part(index)
    with opened_part(path) as part:
        _require_planned(plan, index, part)
        if part.state.damaged_slots:
            raise damaged_part(plan, index, f"slots of its ledger: {len(part.state.damaged_slots)}")
        if not mix_numerics and (differing := other_numerics(plan, part)):
            raise MismatchError(
                f"{differing} Nothing was changed. Compute it on the same machines, or allow both "
                f"with --mix-numerics."
            )
        if reads_rows:
            _require_parts(plan, index, part)
            _require_known(plan, index, part)
        yield part


def require_part(plan: PartsPlan, index: int, *, mix_numerics: bool) -> None:
    """Refuse the part of a share by its head; raises what `checked_part` raises."""
    with checked_part(plan, index, mix_numerics=mix_numerics, reads_rows=False):
        pass


def _require_planned(plan: PartsPlan, index: int, part: OpenPart) -> None:
    found = _described(plan_of(part.state.manifest))
    wanted = _described(part_plan(plan.manifest, *plan.blocks(index)))
    if differing := differing_fields(found, wanted):
        raise MismatchError(
            f"{part.path} is not the part that {plan.path} plans: {'; '.join(differing)}. Nothing "
            f"was changed. {_anew(plan, index)}"
        )


def _described(plan: FilePlan) -> dict[str, Any]:
    """Give all that must be as planned, but for the numeric class."""
    return {
        "identity": plan.identity.to_json(),
        "provenance": plan.provenance.to_json(),
        "class_names": plan.class_names,
        "rows_per_block": plan.rows_per_block,
        "splits": {name: asdict(split) for name, split in plan.splits.items()},
        "statistics": plan.statistics,
        "reference": plan.reference,
        "format_version": plan.version,
    }


def other_numerics(plan: PartsPlan, part: OpenPart) -> str:
    """Say how a part's numeric class differs from the plan's; empty if it is the same."""
    found: Mapping[str, Any] = part.state.manifest.numerics
    differing = differing_fields(found, plan.manifest.numerics)
    if n_foreign := len(part.state.foreign_blocks):
        differing.append(f"blocks that another numeric class computed: {n_foreign}")
    if not differing:
        return ""
    return (
        f"{part.path} was computed by different hardware, settings or library versions than "
        f"{plan.path} says (numerics: {'; '.join(differing)}). Last digits may differ."
    )


def _require_parts(plan: PartsPlan, index: int, part: OpenPart) -> None:
    """Hold the statistics and the reference rows against the plan's."""
    wanted = {TRUNK: plan.statistics, REFERENCE: plan.reference}
    for name, planned in part.state.manifest.parts.items():
        found = read_part(part.fd, planned, part.state.slots[planned.slot].sha256)
        if found is None:
            raise damaged_part(plan, index, f"its {name!r} is not as written")
        values = wanted[name]
        if values is None or found.tobytes() != np.ascontiguousarray(values).tobytes():
            raise MismatchError(
                f"{part.path} has other values of {name!r} than {plan.path}. The parts are as they "
                f"were. {_anew(plan, index)}"
            )


def _require_known(plan: PartsPlan, index: int, part: OpenPart) -> None:
    of_part = dict(zip(plan.manifest.blocks(*plan.blocks(index)), part.blocks, strict=True))
    found = known_sha256(list(of_part), lambda block: part.known(of_part[block]))
    if found == plan.shares_sha256[index]:
        return
    for block in part.blocks:
        if block_digest(part.fd, part.state.manifest, block) != part.slot(block).sha256:
            rows = f"{block.split} rows {block.start} to {block.stop - 1}"
            raise damaged_part(plan, index, f"the SHA-256 of {rows} is not as written")
    raise MismatchError(
        f"{part.path} has other labels, ids or digests of images than {plan.path} counts "
        f"(shares_sha256). The parts are as they were. {_anew(plan, index)}"
    )


def damaged_part(plan: PartsPlan, index: int, what: str) -> CorruptError:
    """Say what is damaged in a part, and how to make it anew."""
    return CorruptError(
        f"{plan.part(index)} is damaged: {what}. The parts are as they were. {_anew(plan, index)}"
    )


def _anew(plan: PartsPlan, index: int) -> str:
    path = shlex.quote(str(plan.part(index)))
    return (
        f"Remove it and compute the share again: rm {path} && "
        f"{plan.command(Share(index, plan.n_shares))}"
    )
