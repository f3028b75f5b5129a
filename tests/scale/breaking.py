"""Ways to break a folder of parts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from featcache.scale.plan_file import PartsPlan, _sha256
from featcache.store import CacheWriter, FilePlan, Identity, NumericClass, Provenance
from featcache.store.hdf5_file import plan_of
from featcache.store.merging import opened_part
from tests.store.damage import flip

VICTIM = 1  # the share whose part is another


def remade(
    plan: PartsPlan,
    change: Callable[[FilePlan], FilePlan],
    *,
    edit: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda content: content,
    numerics: NumericClass | None = None,
    values: float = 0.0,
) -> None:
    """Write the victim's part anew, sound in itself, from a changed plan.

    Args:
        plan: Of the parts.
        change: Changes the plan of its file; where it changes the layout, its rows are zeros.
        edit: Changes the columns of each block.
        numerics: The numeric class that its slots name.
        values: Added to its statistics and reference rows.
    """
    path = plan.part(VICTIM)
    old = path.with_name("old.h5")
    path.rename(old)
    with opened_part(old) as part:
        before = plan_of(part.state.manifest)
        made = change(before)
        is_alike = (made.splits, made.rows_per_block) == (before.splits, before.rows_per_block)
        with CacheWriter.create(path, made, {}) as writer:
            if plan.statistics is not None:
                writer.write_statistics(plan.statistics + values)
            if plan.reference is not None:
                writer.write_reference(plan.reference + values)
            for block, there in zip_longest(writer.pending(), part.blocks):
                if block is None:
                    break
                extents = writer.manifest.splits[block.split].columns
                zeros = {n: bytes(e.rows(block.start, block.stop)[1]) for n, e in extents.items()}
                writer.write_columns(block, edit(part.content(there)) if is_alike else zeros)
            writer.commit(numerics)
            writer.finish()
    old.unlink()


def identity_of(**fields: Any) -> Callable[[PartsPlan], object]:
    def change(made: FilePlan) -> FilePlan:
        return replace(made, identity=Identity.from_json({**made.identity, **fields}))

    return lambda plan: remade(plan, change)


def splits_of(**fields: Any) -> Callable[[PartsPlan], object]:
    def change(made: FilePlan) -> FilePlan:
        splits = {name: replace(split, **fields) for name, split in made.splits.items()}
        names = made.class_names if fields.get("has_labels", True) else ()
        return replace(made, splits=splits, class_names=names)

    return lambda plan: remade(plan, change)


def file_of(**fields: Any) -> Callable[[PartsPlan], object]:
    return lambda plan: remade(plan, lambda made: replace(made, **fields))


def column_of(name: str) -> Callable[[PartsPlan], object]:
    def edit(content: dict[str, bytes]) -> dict[str, bytes]:
        return {**content, name: content[name][:1].translate(_OTHER) + content[name][1:]}

    return lambda plan: remade(plan, lambda made: made, edit=edit)


_OTHER = bytes(byte ^ 1 for byte in range(256))


def numerics_of(made: FilePlan) -> FilePlan:
    return replace(made, numerics=NumericClass.from_json({**made.numerics, "threads": 99}))


def in_numerics(plan: PartsPlan) -> None:
    other = NumericClass.from_json({**plan.manifest.numerics, "threads": 99})
    remade(plan, lambda made: made, numerics=other)


def provenance_of(made: FilePlan) -> FilePlan:
    return replace(made, provenance=Provenance.from_json({**made.provenance, "torch": "1.0"}))


def resized(n: int) -> Callable[[PartsPlan], object]:
    def change(made: FilePlan) -> FilePlan:
        name, split = next(iter(made.splits.items()))
        return replace(made, splits={**made.splits, name: replace(split, n_rows=split.n_rows + n)})

    return lambda plan: remade(plan, change)


def resealed(**fields: Any) -> Callable[[PartsPlan], object]:
    """Change plan.json under a digest that fits."""

    def do(plan: PartsPlan) -> None:
        said = json.loads(plan.path.read_bytes())
        del said["sha256"]
        for name, value in fields.items():
            said[name] = value(said[name]) if callable(value) else value
        plan.path.write_text(json.dumps({**said, "sha256": _sha256(said)}))

    return do


def renamed(plan: PartsPlan, name: str) -> None:
    path = plan.part(VICTIM)
    path.with_name(name.format(path.name)).write_bytes(path.read_bytes())


def swapped(plan: PartsPlan) -> None:
    first, second = plan.part(0), plan.part(1)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def at(offset: Callable[[PartsPlan], int]) -> Callable[[PartsPlan], object]:
    return lambda plan: flip(plan.part(VICTIM), offset(plan))


def in_column(name: str) -> Callable[[PartsPlan], object]:
    def offset(plan: PartsPlan) -> int:
        with opened_part(plan.part(VICTIM)) as part:
            return next(iter(part.state.manifest.splits.values())).columns[name].offset

    return at(offset)


def in_ledger(plan: PartsPlan) -> int:
    with opened_part(plan.part(VICTIM)) as part:
        return part.state.manifest.ledger.offset + part.blocks[0].slot * 64 + 20


def in_statistics(plan: PartsPlan) -> int:
    with opened_part(plan.part(VICTIM)) as part:
        return part.state.manifest.parts["trunk"].extent.offset + 3


def cut(n: int) -> Callable[[PartsPlan], object]:
    def do(plan: PartsPlan) -> None:
        path = plan.part(VICTIM)
        os.truncate(path, path.stat().st_size + n)

    return do


def replaced_by(make: Callable[[Path], object]) -> Callable[[PartsPlan], object]:
    def do(plan: PartsPlan) -> None:
        plan.part(VICTIM).unlink()
        make(plan.part(VICTIM))

    return do


def removed(*indices: int) -> Callable[[PartsPlan], object]:
    return lambda plan: [plan.part(index).unlink() for index in indices]
