"""How an option is declared: a field that carries its default, its help text and its limits."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import Field, field, fields
from functools import partial
from typing import Any, TypeVar

from featcache.core.arguments import (
    flag,
    not_empty,
    number,
    numbers,
    one_of,
    option_name,
    require_at_least,
    require_at_most,
    several,
    text,
    texts_by_name,
    whole_number,
    whole_numbers,
)

T = TypeVar("T")

_GROUPS: dict[tuple[type, str], str] = {}

AUTO = "auto"
PATHS = ("cache", "weights", "cache_dir", "data_dir", "runs_dir", "write_list")
"""Options that are paths, or may be."""

_KINDS: dict[str, Callable[[str, Any], Any]] = {
    "str": text,
    "int": whole_number,
    "float": number,
    "bool": flag,
    "tuple[int, ...]": whole_numbers,
    "tuple[float, ...]": numbers,
    "tuple[str, ...]": partial(several, text),
    "Mapping[str, str]": texts_by_name,
}


def option(
    default: T,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    least: int | None = None,
    most: int | None = None,
    unset: str = "",
    unit: str = "",
    group: str = "",
    words: Mapping[str, Any] | None = None,
) -> T:
    """Declare a field of a spec, once for the library and for the terminal.

    Args:
        default: Its default.
        help: What it means; the values to choose from are added where the text does not name them.
        choices: The only values.
        least: The smallest number, of each where the field holds several.
        most: The largest number.
        unset: What None stands for. Where that is "auto", the word may be given too.
        unit: Of a number that is typed with a unit: "bytes".
        group: Of options in the help; that of the spec where none is named.
        words: What words stand for that may be given in place of a value.
    """
    if not all(re.search(rf"\b{choice}\b", help) for choice in choices):
        help = f"{help} One of {', '.join(choices)}."
    said: dict[str, Any] = {"help": help, "choices": choices, "unset": unset, "unit": unit}
    said |= {"least": least, "most": most, "group": group, "words": words or {}}
    return field(default=default, metadata=said)


def declared(spec: type) -> dict[str, Field[Any]]:
    """List the fields of a spec that are options, by name."""
    return {one.name: one for one in fields(spec) if "help" in one.metadata}


def options_in(group: str) -> Callable[[type[T]], type[T]]:
    """Decorate a spec: name the group of its options, and write what each means into its docstring.

    Args:
        group: Of options in the help of a command, for those that name none.
    """

    def decorate(spec: type[T]) -> type[T]:
        lines = []
        for name, one in declared(spec).items():
            said = one.metadata
            _GROUPS[spec, name] = said["group"] or group
            line = f"{name}: {said['help']}"
            line += f" None means {said['unset']}." if said["unset"] else ""
            lines.append(
                textwrap.fill(line, 96, initial_indent=" " * 8, subsequent_indent=" " * 12)
            )
        spec.__doc__ = "\n".join([f"{spec.__doc__}\n\n    Attributes:", *lines])
        return spec

    return decorate


def group_of(spec: type, name: str) -> str:
    """Name the group in which a help shows an option."""
    return _GROUPS[spec, name]


def check_fields(spec: Any) -> None:
    """Bring each field of a frozen dataclass to its type, and refuse what its limits exclude.

    Raises:
        UsageError: Naming the first field that is wrong, and its value.
    """
    for one in fields(spec):
        kind, _, is_optional = str(one.type).partition(" | ")
        value = getattr(spec, one.name)
        if value is None and is_optional:
            continue
        said, name = one.metadata, option_name(one.name)
        if said.get("unset") == AUTO and isinstance(value, str) and value == AUTO:
            value = None
        else:
            if isinstance(value, str):
                value = said.get("words", {}).get(value.lower(), value)
            value = _KINDS[kind](name, value)
            if one.name in PATHS:
                not_empty(name, value)
            if isinstance(value, tuple):
                value = tuple(_within(name, each, said) for each in value)
            else:
                value = _within(name, value, said)
        object.__setattr__(spec, one.name, value)


def _within(name: str, value: Any, said: Mapping[str, Any]) -> Any:
    """Refuse a value that the limits of its field exclude."""
    if said.get("choices"):
        value = one_of(name, value, said["choices"])
    if said.get("least") is not None:
        require_at_least(name, value, said["least"])
    if said.get("most") is not None:
        require_at_most(name, value, said["most"])
    return value
