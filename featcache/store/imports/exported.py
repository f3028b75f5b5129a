"""A file that `store.exports` wrote, made into the same cache again: rows compared by blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.reporting import NoteCallback
from featcache.core.stopping import working
from featcache.errors import CorruptError
from featcache.store import (
    Block,
    CacheWriter,
    FilePlan,
    SplitRows,
    cache_path,
    encode_id,
    locked,
    partial_path,
    read_state,
)
from featcache.store.columns import clipped_reason, known_columns
from featcache.store.exports.table import NAMES
from featcache.store.imports.claims import Claims
from featcache.store.imports.filling import CHANGED
from featcache.store.imports.keep import is_sound
from featcache.store.imports.labels import read_labels
from featcache.store.imports.sandbox import KEPT, Column, reading
from featcache.store.manifest import COLUMNS, REASON_BYTES


def differing_blocks(source: Path, claims: Claims, *, format: str) -> list[Block]:
    """Read the rows, and list the blocks that are not those of the cache; [] if all are."""
    return [
        block
        for block, content in _blocks(source, claims, format=format)
        if _sha256(content) != claims.digests.get(block[1:], (b"", b""))[0]
    ]


def restore(
    source: Path, claims: Claims, *, format: str, folder: Path, on_note: NoteCallback
) -> tuple[Path, str]:
    """Make the same cache again, whose blocks do not differ.

    Returns:
        The cache, and "imported", or "reused" if it is there without damage.
    """
    plan = claims.plan
    target = cache_path(folder, plan.identity.backbone, plan.identity.fingerprint)
    with locked(target):
        if is_sound(target, plan):
            slots = read_state(target).slots.values()
            if {s.sha256 for s in slots}.isdisjoint(sha for sha, _ in claims.digests.values()):
                on_note(
                    f"{target.name} holds the same features, computed on another machine; last "
                    f"digits differ. It was not replaced"
                )
            return target, "reused"
        with working():
            target.unlink(missing_ok=True)
            try:
                _write(target, source, claims, format)
            except BaseException:
                partial_path(target).unlink(missing_ok=True)
                raise
    return target, "imported"


def _write(target: Path, source: Path, claims: Claims, format: str) -> None:
    rows: dict[str, SplitRows] = {}
    blocks = _blocks(source, claims, format=format, rows=rows)
    first = next(blocks)  # by now the rows are known
    with CacheWriter.create(target, claims.plan, rows) as writer:
        for name, part in claims.parts.items():
            values = np.frombuffer(part, "<f4")
            if name == "trunk":
                writer.write_statistics(values)
            else:
                writer.write_reference(values.reshape(claims.plan.reference or (-1,)))
        n_open, numeric = 0, b""
        for block, content in _chained(first, blocks):
            sha256, its_class = claims.digests[block[1:]]
            if _sha256(content) != sha256:
                raise CorruptError(CHANGED)
            if its_class != numeric or n_open == 16:
                writer.commit(numeric_id=numeric or None)
                n_open, numeric = 0, its_class
            reasons = {
                i: raw.decode(errors="replace")
                for i, raw in enumerate(content.get("reason", np.empty(0, "S1")).tolist())
                if raw
            }
            valid = content["valid"].astype(np.bool_)
            writer.write_block(block, content["features"], valid, reasons)
            n_open += 1
        writer.commit(numeric_id=numeric or None)
        writer.finish()


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _sha256(content: Mapping[str, npt.NDArray[Any]]) -> bytes:
    sha = hashlib.sha256()
    for column in COLUMNS:
        if column in content:
            sha.update(np.ascontiguousarray(content[column]).tobytes())
    return sha.digest()


def _blocks(
    source: Path, claims: Claims, *, format: str, rows: dict[str, SplitRows] | None = None
) -> Iterator[tuple[Block, dict[str, npt.NDArray[Any]]]]:
    """Yield the blocks of the exported splits with their columns, as the cache stores them."""
    plan = claims.plan
    n_rows = sum(split.n_rows for split in plan.splits.values())
    asked = [(name, NAMES[name]) for name in claims.columns]
    with reading(source, asked, format=format) as columns:
        of_it = dict(zip((kind for kind, _ in asked), columns, strict=True))
        if any(column.n_rows != n_rows for column in columns):
            raise CorruptError(f"{source} has other rows than it says. {KEPT}")
        of_it["features"].hold(n_rows * (256 + REASON_BYTES))
        known = {name: _known(name, of_it[name]) for name in claims.columns[:-1]}
        first_of = _first_rows(plan)
        rows = {} if rows is None else rows
        for name, first in first_of.items():
            rows[name] = _split_rows(known, first, first + plan.splits[name].n_rows)
        features = _sized(of_it["features"])
        next(features)
        for block in plan.draft().blocks():
            split = plan.splits[block.split]
            extents = split.columns()
            start, stop = block.start, block.stop
            content: dict[str, npt.NDArray[Any]] = {
                name: np.frombuffer(raw, np.uint8)
                for name, raw in known_columns(rows[block.split], extents, start, stop).items()
            }
            flat = features.send(stop - start).astype(split.feature_dtype, copy=False)
            content["features"] = flat.reshape(-1, *split.feature_shape)
            first = first_of[block.split]
            for name in ("valid", "reason"):
                if name in extents:
                    content[name] = known[name][first + start : first + stop]
            yield block, content


def _sized(column: Column) -> Generator[npt.NDArray[Any], int, None]:
    """Give as many rows of a column as are sent in, one time after the other."""
    parts = column.parts()
    held = next(parts)
    wanted = yield held[:0]
    while True:
        while len(held) < wanted:
            part = next(parts, None)
            if part is None:
                raise CorruptError(CHANGED)
            held = np.concatenate([held, part])
        rows, held = held[:wanted], held[wanted:]
        if not len(held):  # the column must be read to its end
            more = next(parts, None)
            held = rows[:0] if more is None else more
        wanted = yield rows


def _first_rows(plan: FilePlan) -> dict[str, int]:
    """Give the first row of each split in the table."""
    first, at = {}, 0
    for name, split in plan.splits.items():
        first[name] = at
        at += split.n_rows
    return first


def _known(name: str, column: Column) -> Any:
    if name == "labels":
        return read_labels(column, "the table")
    if name == "ids":
        return [part for parts in column.ids() for part in parts]
    if name == "reason":
        texts = [clipped_reason(part) for parts in column.ids() for part in parts]
        return np.array(texts, f"S{REASON_BYTES}")
    joined = np.concatenate(list(column.parts()))
    return joined.astype(np.uint8).reshape(column.shape)


def _split_rows(known: Mapping[str, Any], start: int, stop: int) -> SplitRows:
    labels, ids, sha256 = (known.get(n) for n in ("labels", "ids", "image_sha256"))
    assert ids is not None, "every cache has ids"
    for text_ in ids[start:stop]:
        if not encode_id(text_):
            raise CorruptError(f"An id is empty. {KEPT}")
    return SplitRows(
        None if labels is None else labels[start:stop],
        ids[start:stop],
        None if sha256 is None else sha256[start:stop],
    )
