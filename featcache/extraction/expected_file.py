"""The file that a plan would make, held against the one that is in its place."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.identity import canonical_json, differing_fields
from featcache.core.paths import healed
from featcache.errors import CorruptError
from featcache.store import Extent, Manifest, require_identity

if TYPE_CHECKING:
    from featcache.extraction.plan import Plan


def require_same_file(path: Path, found: Manifest, plan: Plan) -> None:
    """Refuse a file in a cache's place that is not the one which is planned.

    Raises:
        MismatchError: If it holds something else, with the fields that differ.
        CorruptError: If it says that it holds the same, but is laid out as no run would do it.
    """
    require_identity(path, found.identity, plan.identity)
    wanted = {name: split.columns() for name, split in plan.splits(found.version).items()}
    differing = differing_fields(
        _layout_in(found), _layout(plan.dataset.class_names, wanted, plan.statistics())
    )
    if differing:
        raise CorruptError(
            f"{path} claims to hold this cache, but its layout is wrong: "
            f"{'; '.join(differing)}. featcache did not write it. Nothing was changed. Remove it "
            f"(featcache cache rm {shlex.quote(str(path))}) and run again."
        )


def layout_sha256(found: Manifest) -> str:
    """Hash what `require_same_file` compares beside the identity; hex."""
    return hashlib.sha256(canonical_json(_layout_in(found)).encode()).hexdigest()


def _layout_in(found: Manifest) -> dict[str, object]:
    there = {name: split.columns for name, split in found.splits.items()}
    statistics = None if found.statistics is None else found.statistics.entries
    return _layout([*map(healed, found.class_names)], there, statistics)


def _layout(
    class_names: Sequence[str], splits: Mapping[str, Mapping[str, Extent]], statistics: object
) -> dict[str, object]:
    return {
        "class_names": class_names,
        "splits": list(splits),
        **{
            name: {column: [*e.shape, e.dtype] for column, e in columns.items()}
            for name, columns in splits.items()
        },
        "statistics": statistics,
    }
