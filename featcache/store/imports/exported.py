"""A file that `store.exports` wrote, made into the same cache again: rows compared by blocks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.reporting import NoteCallback
from featcache.core.stopping import working
from featcache.errors import CorruptError, UsageError
from featcache.store import (
    Block,
    CacheWriter,
    FilePlan,
    Identity,
    NumericClass,
    Provenance,
    SplitPlan,
    SplitRows,
    cache_path,
    encode_id,
    locked,
    partial_path,
    read_state,
)
from featcache.store.columns import clipped_reason, known_columns
from featcache.store.exports.table import EXPORT_VERSION, NAMES
from featcache.store.imports.filling import CHANGED
from featcache.store.imports.keep import is_sound
from featcache.store.imports.labels import read_labels
from featcache.store.imports.sandbox import KEPT, Column, reading
from featcache.store.imports.scan_table import TableKeys
from featcache.store.json_values import count, text
from featcache.store.manifest import COLUMNS, REASON_BYTES

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOST_ABOUT = 256 << 20
_BEFORE_FEATURES = ("labels", "ids", "valid", "reason", "image_sha256")


@dataclass(frozen=True, eq=False)
class Claims:
    """What a file says of the cache that it was exported from.

    Attributes:
        said: Its JSON; what is used of it is checked here or by the reader of caches.
        slug: The folder of the cache.
        plan: The cache's file, as it was made.
        digests: SHA-256 and numeric class of each block.
        parts: Bytes of the statistics and the reference rows, by their names.
    """

    said: Mapping[str, Any]
    slug: str
    plan: FilePlan
    digests: Mapping[tuple[str, int, int], tuple[bytes, bytes]]
    parts: Mapping[str, bytes]

    @property
    def title(self) -> str:
        """Name the cache for people."""
        identity = self.plan.identity
        dataset = self.plan.provenance.dataset
        return f"{identity.backbone}-{identity.fingerprint[:8]} of {dataset}"

    @property
    def is_whole(self) -> bool:
        """Whether the file has the rows of every split."""
        return list(self.said["exported"]) == list(self.plan.splits)

    @property
    def columns(self) -> list[str]:
        """The columns that all splits of the cache have, features last."""
        shared = set.intersection(*(set(s.columns()) for s in self.plan.splits.values()))
        return [name for name in (*_BEFORE_FEATURES, "features") if name in shared]

    @property
    def keys(self) -> TableKeys:
        """Where a table of it has what an imported cache takes."""
        labels = NAMES["labels"] if "labels" in self.columns else None
        return TableKeys(NAMES["features"], labels, NAMES["ids"], NAMES["split"], NAMES["valid"])


def read_claims(source: Path, *, format: str) -> Claims | None:
    """Read what a file says of a cache; None if it was not exported from one.

    Raises:
        CorruptError: If it says what no export would.
    """
    try:
        with reading(source, [("about", "about")], format=format) as [column]:
            if column.n_rows > _MOST_ABOUT:
                raise CorruptError(f"{source} says too much of its cache. {KEPT}")
            column.hold(column.n_rows)
            content = b"".join(part.tobytes() for part in column.parts())
    except UsageError:
        return None
    try:
        return _parsed(dict(json.loads(content)))
    except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as err:
        raise CorruptError(
            f"{source} says of its cache what no export would ({type(err).__name__}). {KEPT} "
            f"Export it again, or name its columns with --features, --labels and --ids."
        ) from err


def _parsed(said: Mapping[str, Any]) -> Claims:
    if said["export"] != EXPORT_VERSION or not _SLUG.fullmatch(text(said["slug"])):
        raise ValueError("another version")
    splits = {}
    for split in said["splits"]:
        columns = split["columns"]
        shape, dtype = columns["features"]
        splits[text(split["name"])] = SplitPlan(
            n_rows=_whole(split["n_rows"]),
            feature_shape=tuple(map(_whole, shape[1:])),
            feature_dtype=np.dtype(text(dtype)).str,
            id_nbytes=np.dtype(text(columns["ids"][1])).itemsize,
            has_reasons="reason" in columns,
            has_labels="labels" in columns,
            has_image_sha256="image_sha256" in columns,
        )
    exported = [text(name) for name in said["exported"]]
    if not exported or not set(exported) <= splits.keys():
        raise ValueError("splits that the cache does not have")
    statistics, reference = said["statistics"], said["reference"]
    plan = FilePlan(
        identity=Identity.from_json(said["identity"]),
        numerics=NumericClass.from_json(said["numerics"]),
        provenance=Provenance.from_json(said["provenance"]),
        class_names=tuple(map(text, said["class_names"])),
        rows_per_block=_whole(said["rows_per_block"]),
        splits=splits,
        statistics=None
        if statistics is None
        else tuple((text(name), tuple(map(int, shape))) for name, shape in statistics),
        reference=None if reference is None else (_whole(reference[0]), _whole(reference[1])),
        version=_whole(said["version"]),
    )
    return Claims(
        said=said,
        slug=said["slug"],
        plan=plan,
        digests={
            (text(name), int(start), int(stop)): (bytes.fromhex(sha), bytes.fromhex(numeric))
            for name, start, stop, sha, numeric in said["blocks"]
        },
        parts=_parts(plan, said["parts"]),
    )


def _parts(plan: FilePlan, said: Mapping[str, Any]) -> dict[str, bytes]:
    """Read what has a slot of its own beside the blocks, which must be as the cache had it."""
    wanted = plan.draft().parts
    if said.keys() != wanted.keys():
        raise ValueError("other parts than the cache has")
    parts = {}
    for name, (_, extent) in wanted.items():
        content, sha256 = said[name]
        parts[name] = base64.b64decode(content, validate=True)
        digest = hashlib.sha256(parts[name]).hexdigest()
        if len(parts[name]) != extent.nbytes or digest != sha256:
            raise ValueError("a part that is not as it was")
    return parts


def _whole(value: Any) -> int:
    count(value, least=1)
    return int(value)


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
