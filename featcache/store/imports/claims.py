"""What a file that `store.exports` wrote says of the cache that it was exported from."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import CorruptError, UsageError
from featcache.store import FilePlan, Identity, NumericClass, Provenance, SplitPlan
from featcache.store.exports.table import EXPORT_VERSION, NAMES
from featcache.store.imports.sandbox import KEPT, reading
from featcache.store.imports.scan_table import TableKeys
from featcache.store.json_values import count, text

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
