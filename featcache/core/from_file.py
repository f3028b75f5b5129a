"""What a file says, as a frozen dataclass: each field is there, of its type, and no other is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from featcache.errors import clipped

T = TypeVar("T")

_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
}


def from_file(kind: type[T], said: Any, **ready: Any) -> T:
    """Build a dataclass from a mapping that was read from a file.

    Args:
        kind: Its fields are text, numbers, True or False, or None where the annotation says so.
        said: Its fields by name; one with a default may be missing.
        ready: Fields that the caller has checked; what `said` has of them is not looked at.

    Raises:
        ValueError: Naming what is missing, not known, or of another type.
    """
    if not isinstance(said, Mapping):
        raise ValueError(f"{clipped(repr(said))} where fields were expected")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := [name for name in said if name not in known]:
        raise ValueError(f"the field {clipped(str(unknown[0]))} is not known")
    values = dict(ready)
    for name, field in known.items():
        if name in ready:
            continue
        if name in said:
            values[name] = _typed(name, str(field.type), said[name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"the field {name} is missing")
    return kind(**values)


def _typed(name: str, annotation: str, value: Any) -> Any:
    kind, _, may_be_none = annotation.partition(" | ")
    if value is None and may_be_none:
        return None
    is_flag = isinstance(value, bool)
    if not isinstance(value, _KINDS[kind]) or is_flag != (kind == "bool"):
        raise ValueError(f"the field {name} is {clipped(repr(value))}, which is no {kind}")
    if kind == "float":
        return float(str(value)) if isinstance(value, int) else value  # a huge one is infinite
    return value
