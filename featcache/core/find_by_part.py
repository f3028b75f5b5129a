"""Find a cache or a run by part of its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from featcache.errors import CacheMissingError, UsageError, did_you_mean


def find_by_part(
    wanted: str, by_name: Mapping[str, Path], *, kind: str, place: str, way_out: str
) -> Path:
    """Find the one path whose name is `wanted`, or else has it in it.

    Args:
        wanted: A name, or part of one.
        by_name: What there is.
        kind: "cache" or "run".
        place: The folder in which it was looked for.
        way_out: The sentence that ends the error where there is none.

    Raises:
        CacheMissingError: If there is none, with the nearest names.
        UsageError: If several fit.
    """
    if wanted in by_name:
        return by_name[wanted]
    fits = [path for name, path in by_name.items() if wanted in name]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(map(str, fits))
        raise UsageError(f"{wanted!r} fits several {kind}s: {names}. Give more of its name.")
    raise CacheMissingError(
        f"There is no {kind} {wanted!r}, neither at that path nor in {place}."
        f"{did_you_mean(wanted, by_name)} {way_out}"
    )
