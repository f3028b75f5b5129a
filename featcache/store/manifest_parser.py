"""Parse a manifest from bytes. Every value is checked. Nothing here opens a file."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from typing import Any, NamedTuple

from featcache.core.identity import SHA256_BYTES
from featcache.errors import CorruptError, MismatchError, clipped, counted
from featcache.store.identity import Identity, NumericClass, Provenance
from featcache.store.json_values import count, text
from featcache.store.ledger import SLOT_BYTES
from featcache.store.manifest import (
    FILE_VERSION,
    HDF5_SIGNATURE,
    HEADER_LENGTH,
    MANIFEST_OFFSET,
    BackboneStatistics,
    Extent,
    Manifest,
    SplitLayout,
)

MANIFEST_LIMIT = 16 << 20
SLOTS_LIMIT = 1 << 20  # 64 MiB of ledger; of more rows than 17 million, blocks grow
BLOCK_LIMIT = 1 << 20  # rows; a block is 512 of them, or one batch
SKELETON_LIMIT = 256 << 20  # manifest, HDF5's own bytes, 8 MiB of alignment for each split
_HEADER_PATTERN = re.compile(
    rb"featcache manifest v(\d{3}) length=(\d{10}) sha256=([0-9a-f]{64})\n"
)
_DTYPES = re.compile(r"<f4|<f2|\|u1|<i8|\|S[1-9]\d{0,4}")
_REQUIRED = {1: {"features", "labels", "valid", "ids"}, 2: {"features", "valid", "ids"}}
_OPTIONAL = {1: {"reason"}, 2: {"labels", "reason", "image_sha256"}}
_RESERVED = "targets"


class FirstLine(NamedTuple):
    """The manifest's first line.

    Attributes:
        version: Of the file's format.
        length: Bytes of the JSON behind it.
        sha256: Of that JSON, hex.
    """

    version: int
    length: int
    sha256: str


def parse_header(header: bytes, *, name: str) -> FirstLine:
    """Read the manifest's first line.

    Raises:
        CorruptError: If this is not the first line of a manifest.
        MismatchError: If it is one of another format version.
    """
    match = _HEADER_PATTERN.fullmatch(header)
    if match is None:
        raise CorruptError(
            f"{name} is an HDF5 file, but not a featcache cache: byte {MANIFEST_OFFSET} should "
            f"begin a manifest. Nothing was changed. See docs/format.md."
        )
    found = FirstLine(int(match[1]), int(match[2]), match[3].decode())
    if not 1 <= found.version <= FILE_VERSION:
        raise _of_a_later_featcache(name, f"its format version is {found.version}")
    if found.length > MANIFEST_LIMIT:
        raise CorruptError(
            f"{name}: a manifest of {found.length} bytes is more than any cache has."
        )
    return found


def parse_manifest(body: bytes, header: FirstLine, *, file_size: int, name: str) -> Manifest:
    """Parse the JSON of a manifest, and check every value.

    Raises:
        CorruptError: If the bytes, the types or the places are not what a writer makes.
        MismatchError: If the file holds what only a later featcache writes.
    """
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise CorruptError(
            f"{name}: the manifest is damaged (its SHA-256 differs). Its rows cannot be trusted. "
            f"Mend it with: featcache cache repair {shlex.quote(name)}"
        )
    try:
        manifest = _manifest_from_json(json.loads(body), header.version)
        if reserved := _reserved_parts(manifest):
            raise _of_a_later_featcache(name, reserved)
        _check_views(manifest)
        _check_reference(manifest)
        _check_blocks(manifest)
        _check_places(manifest, body_nbytes=len(body))
        # No key twice or unknown, no NaN, no other spelling: what is read is all there is.
        if manifest.to_bytes()[HEADER_LENGTH:] != body:
            raise ValueError("its JSON is not in canonical form")
    except MismatchError:
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as err:
        why = f"it lacks {err}" if isinstance(err, KeyError) else str(err)
        raise CorruptError(
            f"{name}: the manifest is not one that featcache writes ({clipped(why)})."
        ) from err
    if manifest.file_size != file_size:
        raise CorruptError(
            f"{name} has {counted(file_size, 'byte')}, but its manifest says {manifest.file_size}: "
            f"it was cut or extended. Copy it again from its source, or remove it and extract "
            f"again."
        )
    return manifest


def _of_a_later_featcache(name: str, what: str) -> MismatchError:
    return MismatchError(
        f"{name} was made by a later featcache: {what}, but this featcache reads format versions "
        f"1 to {FILE_VERSION}. Nothing was changed. Read it with the featcache that wrote it, or "
        f"run the extract command again in another --cache-dir."
    )


def _reserved_parts(manifest: Manifest) -> str:
    """Name what version 2 has a place for and nothing writes yet; empty if there is none of it."""
    for name, split in manifest.splits.items():
        if manifest.version > 1 and _RESERVED in split.columns:
            return f"split {name!r} has several targets for each image"
        has_views = manifest.version > 1 and len(split.columns["features"].shape) == 3
        if has_views and "views" not in manifest.identity:
            return f"split {name!r} has features of several views of each image"
    return ""


def _check_views(manifest: Manifest) -> None:
    """Refuse features that are not of as many views as the identity says."""
    if "views" not in manifest.identity:
        return
    for name, split in manifest.splits.items():
        n, features = manifest.n_views(name), split.columns["features"]
        wanted = (n, manifest.n_features) if n > 1 else (manifest.n_features,)
        if manifest.version == 1 or features.shape[1:] != wanted or features.dtype == "|u1":
            raise ValueError(f"features of split {name!r} are {features}, not of {n} views")


def _manifest_from_json(value: dict[str, Any], version: int) -> Manifest:
    splits = {}
    for split in value["splits"]:
        columns = {name: _extent(e) for name, e in split["columns"].items()}
        splits[text(split["name"])] = SplitLayout(count(split["n_rows"], least=1), columns)
    if not splits:
        raise ValueError("no splits")
    statistics = None
    if value["statistics"] is not None:
        entries = tuple(
            (text(name), _shape(shape)) for name, shape in value["statistics"]["entries"]
        )
        if not entries:
            raise ValueError("statistics without entries")
        statistics = BackboneStatistics(count(value["statistics"]["offset"]), entries)
    reference = value["reference"] if version > 1 else None
    manifest = Manifest(
        identity=Identity.from_json(value["identity"]),
        numerics=NumericClass.from_json(value["numerics"]),
        provenance=Provenance.from_json(value["provenance"]),
        class_names=tuple(text(n) for n in value["class_names"]),
        rows_per_block=count(value["rows_per_block"], least=1),
        splits=splits,
        ledger=_extent(value["ledger"]),
        statistics=statistics,
        reference=None if reference is None else _extent(reference),
        file_size=count(value["file_size"]),
        version=version,
    )
    if manifest.identity.fingerprint != value["fingerprint"]:
        raise ValueError("fingerprint and identity disagree")
    have_labels = {"labels" in split.columns for split in splits.values()}
    if len(have_labels) > 1 or (manifest.class_names and have_labels == {False}):
        raise ValueError("labels in some splits only, or names of classes without any")
    return manifest


def _check_reference(manifest: Manifest) -> None:
    """Refuse reference rows that are not rows of the file's own length."""
    n_features, reference = manifest.n_features, manifest.reference
    if reference is not None and (reference.dtype, reference.shape[1:]) != ("<f4", (n_features,)):
        raise ValueError(f"reference rows {reference} for rows of {n_features} features")


def _check_blocks(manifest: Manifest) -> None:
    """Refuse blocks that are too long, and those that are not of whole batches."""
    if manifest.rows_per_block > BLOCK_LIMIT:
        raise ValueError(f"blocks of {manifest.rows_per_block} rows are longer than any cache has")
    batch_size = manifest.numerics.batch_size or 1
    if manifest.rows_per_block % batch_size:
        raise ValueError(f"blocks of {manifest.rows_per_block} rows in batches of {batch_size}")


def _check_places(manifest: Manifest, *, body_nbytes: int) -> None:
    """Refuse ranges outside the file, overlapping ones, and columns of unequal length."""
    wanted = Extent(manifest.ledger.offset, (manifest.n_slots, SLOT_BYTES), "|u1")
    if manifest.ledger != wanted or manifest.ledger.offset % SLOT_BYTES:
        raise ValueError(f"a ledger {manifest.ledger} for {manifest.n_slots} slots")
    if manifest.n_slots > SLOTS_LIMIT:
        raise ValueError(f"{manifest.n_slots} slots are more than any cache has")
    places = [
        (MANIFEST_OFFSET, HEADER_LENGTH + body_nbytes),
        (manifest.ledger.offset, manifest.ledger.nbytes),
    ]
    places += [(e.offset, e.nbytes) for _, e in manifest.parts.values()]
    for name, split in manifest.splits.items():
        _check_columns(name, split, manifest.version)
        places += [(e.offset, e.nbytes) for e in split.columns.values()]
    end = len(HDF5_SIGNATURE)
    for offset, nbytes in sorted(places):
        if offset < end:
            raise ValueError(f"two datasets overlap at byte {offset}")
        end = offset + nbytes
    if end > manifest.file_size:
        raise ValueError(f"a dataset ends at byte {end}, behind the end of the file")
    # A hole of terabytes would be read to its end before its digest is found wrong.
    n_skeleton = manifest.file_size - sum(nbytes for _, nbytes in places[1:])
    if n_skeleton > SKELETON_LIMIT:
        raise ValueError(f"{n_skeleton} bytes outside all datasets")


def _check_columns(split_name: str, split: SplitLayout, version: int) -> None:
    required, optional = _REQUIRED[version], _OPTIONAL[version]
    if not required <= set(split.columns) <= required | optional:
        raise ValueError(f"split {split_name!r} has columns {sorted(split.columns)}")
    for name, extent in split.columns.items():
        if not extent.shape or extent.shape[0] != split.n_rows:
            shown = f"{extent.shape} for {split.n_rows} rows"
            raise ValueError(f"{name} of split {split_name!r} are {shown}")
        row_shape = (SHA256_BYTES,) if name == "image_sha256" else ()
        if name != "features" and extent.shape[1:] != row_shape:
            raise ValueError(f"{name} of split {split_name!r} have shape {extent.shape}")
    kinds = {name: extent.dtype for name, extent in split.columns.items()}
    wanted = {"labels": "<i8", "valid": "|u1", "image_sha256": "|u1"}
    is_text = all(kinds.get(name, "|S").startswith("|S") for name in ("ids", "reason"))
    if not is_text or any(kinds.get(name, dtype) != dtype for name, dtype in wanted.items()):
        raise ValueError(f"split {split_name!r} has dtypes {kinds}")
    if kinds["features"] not in ("<f4", "<f2", "|u1"):
        raise ValueError(f"features of split {split_name!r} have dtype {kinds['features']}")


def _extent(value: dict[str, Any]) -> Extent:
    if not _DTYPES.fullmatch(value["dtype"]):
        raise ValueError(f"dtype {value['dtype']!r}")
    return Extent(count(value["offset"]), _shape(value["shape"]), value["dtype"])


def _shape(value: Any) -> tuple[int, ...]:
    if len(value) > 4:
        raise ValueError(f"a shape of {len(value)} dimensions")
    return tuple(count(n, least=1) for n in value)
