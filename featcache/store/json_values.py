"""Checks of values that were read from a file's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LONGEST_TEXT = 1 << 13  # a dataset's name holds a path
_DEEPEST = 4  # mappings and lists within one another, of which an identity has 3


def count(value: Any, *, least: int = 0) -> int:
    """Take a whole number.

    Raises:
        ValueError: If it is something else, below `least`, or more than a file can have.
    """
    if type(value) is not int or not least <= value < 1 << 56:
        raise ValueError(f"{value!r} where a count was expected")
    return value


def text(value: Any) -> str:
    """Take text.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is longer than any name.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where text was expected")
    if len(value) > _LONGEST_TEXT:
        raise ValueError(f"a name of {len(value)} characters")
    return value


def mapping(value: Any) -> dict[str, Any]:
    """Take a mapping that is not too deep for functions that call themselves.

    Raises:
        TypeError: If it is something else.
        ValueError: If it holds values within values, deeper than any cache has.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} where a mapping was expected")
    _check_depth(dict(value), _DEEPEST)
    return dict(value)


def _check_depth(value: Any, most: int) -> None:
    if isinstance(value, dict | list):
        if not most:
            raise ValueError("values within values, deeper than any cache has")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, most - 1)
