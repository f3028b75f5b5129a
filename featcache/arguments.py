"""What an argument must be, and how it is named where it is not."""

from __future__ import annotations

from typing import Any

from featcache.errors import UsageError, nearest


def require_one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not in its list, with the nearest one that is."""
    if value not in allowed:
        near = nearest(value, allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"{option} is {value!r}, but must be one of {', '.join(allowed)}.{hint}")


def require_above_zero(option: str, value: float | None, *, or_zero: bool = False) -> None:
    """Refuse a value that is no finite number above 0."""
    assert value is not None, "settled before"
    if not (value >= 0 if or_zero else value > 0) or value == float("inf"):
        least = "a finite number of at least 0" if or_zero else "a finite number above 0"
        raise UsageError(f"{option} is {value:g}, but must be {least}.")


def typed(value: Any) -> str:
    """Write a value as it is typed on a command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def require_at_least(option: str, value: int | None, least: int) -> None:
    """Refuse a whole number that is too small, or that torch and numpy cannot hold."""
    if value is not None and value < least:
        raise UsageError(f"{option} is {value}, but must be at least {least}.")
    if value is not None and value >= 2**63:  # torch's and numpy's whole numbers end there
        raise UsageError(f"{option} is {value}, but must be below 2**63.")
