"""What makes two files the same: canonical JSON, its fingerprint, and how two of them differ.

The identity of a cache is put together in `extraction/plan.py`, or of imported features in
`store/imports/keep.py`. `store/identity.py` is its type, whose property `fingerprint` calls the
function here. That of a run is put together in `heads/runs.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featcache.errors import clipped

IDENTITY_FORMAT = 1
"""What every identity says its `format` is; a file's own version is `featcache.store`'s."""

SHA256_BYTES = 32

_MOST_DIFFERENCES = 20


def canonical_json(value: Any) -> str:
    """Write JSON in the one form that is hashed: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash an identity: the SHA-256 of its canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, str, Sequence[int], memoryview]]) -> str:
    """Hash tensors in their order: the SHA-256 of names, types, shapes and bytes, as 64 hex digits.

    Args:
        tensors: For each its name, its type as torch writes it ("torch.float32"), its shape, and
            its bytes.
    """
    sha = hashlib.sha256()
    for name, dtype, shape, content in tensors:
        title = canonical_json([name, dtype, list(shape)])
        sha.update(f"{len(title)}:{title}".encode())
        sha.update(content)
    return sha.hexdigest()


def differing_fields(found: Any, wanted: Any) -> list[str]:
    """List where two nested JSON values differ, as "field: found X, wanted Y" lines.

    One of them may be from a foreign file. So long lines are cut, and only the first are listed.
    """
    lines = _differences(found, wanted)
    n_more = len(lines) - _MOST_DIFFERENCES
    return [*lines[:_MOST_DIFFERENCES], f"and {n_more} more"] if n_more > 0 else lines


def _differences(found: Any, wanted: Any, *, prefix: str = "") -> list[str]:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        lines: list[str] = []
        for key in sorted({*found, *wanted}):
            name = f"{prefix}.{key}" if prefix else str(key)
            lines += _differences(found.get(key), wanted.get(key), prefix=name)
        return lines
    if canonical_json(found) == canonical_json(wanted):
        return []
    return [f"{clipped(prefix)}: found {_short(found)}, wanted {_short(wanted)}"]


def _short(value: Any) -> str:
    text = canonical_json(value)
    is_digest = isinstance(value, str) and len(value) == 64
    return text[:13] + '..."' if is_digest else clipped(text)
