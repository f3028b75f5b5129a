"""What trials of engines found on this machine, so that the next one knows what it would cost.

A small file in the user's cache; whatever is wrong with it, nothing is remembered.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from featcache.core.identity import canonical_json
from featcache.core.paths import user_cache_folder

_KEPT_S = 30 * 24 * 3600.0
_MOST_NBYTES = 1 << 20


class Remembered(NamedTuple):
    """What a trial found.

    Attributes:
        compile_s: Seconds that the compile took.
        gain: Times as fast as eager.
    """

    compile_s: float
    gain: float


def recall(key: Mapping[str, Any]) -> Remembered | None:
    """Tell what a trial of the last 30 days found.

    Args:
        key: All that decides it: engine, machine, versions, backbone, sizes.
    """
    found = _read().get(canonical_json(dict(key)))
    return None if found is None else Remembered(float(found["compile_s"]), float(found["gain"]))


def remember(key: Mapping[str, Any], found: Remembered) -> None:
    """Keep what a trial found; where that is not possible, nothing is kept."""
    path = _path()
    if path is None:
        return
    entry = {**found._asdict(), "time": time.time()}
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = path.with_name(f".{path.name}.{os.getpid()}.new")
        written.write_text(canonical_json(_read() | {canonical_json(dict(key)): entry}))
        written.replace(path)


def _path() -> Path | None:
    folder = user_cache_folder()
    return None if folder is None else folder / "engines.json"


def _read() -> dict[str, dict[str, float]]:
    path = _path()
    try:
        if path is None or path.stat().st_size > _MOST_NBYTES:
            return {}
        entries = json.loads(path.read_text())
        return {key: entry for key, entry in entries.items() if _is_fresh(entry)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _is_fresh(entry: Any) -> bool:
    try:
        numbers = [float(entry[name]) for name in ("compile_s", "gain", "time")]
    except (TypeError, KeyError, ValueError):
        return False
    is_sound = all(math.isfinite(n) and n >= 0 for n in numbers)
    return is_sound and 0 <= time.time() - numbers[2] < _KEPT_S
