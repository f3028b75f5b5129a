"""Arguments as people give them: converted to the types that are kept, or refused.

Python's and numpy's numbers, paths, torch's devices, lists and single values are taken. Everything
else is a UsageError with the option's name and the value, before any work begins.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from featcache.core.paths import expanded
from featcache.errors import UsageError, clipped, did_you_mean

T = TypeVar("T")

_MOST_BITS = 63  # torch's and numpy's whole numbers end there
_MOST_FLOAT32 = 3.4028234e38  # the type of all that is trained


def option_name(name: str) -> str:
    """Write the name of a field as it is typed."""
    return f"--{name.replace('_', '-')}"


def typed(value: Any) -> str:
    """Write a value as it is typed on a command line: 1 and not 1.0."""
    if isinstance(value, tuple):
        return ",".join(map(typed, value))
    return str(value).removesuffix(".0")


def whole_number(option: str, value: Any) -> int:
    """Take what Python and numpy count with, as far as torch can hold it."""
    if not _is_flag(value):
        try:
            index = operator.index(value)
        except TypeError:
            pass
        else:
            if index.bit_length() <= _MOST_BITS:
                return index
            shown = str(index) if index.bit_length() < 999 else f"of {index.bit_length()} bits"
            bound = f"below 2**{_MOST_BITS}" if index > 0 else f"above -2**{_MOST_BITS}"
            raise UsageError(f"{option} is {shown}, but must be {bound}.")
    raise _refused(option, value, "a whole number")


def count(option: str, value: Any, *, most: int | None = None) -> int:
    """Take a whole number above 0, and not above `most`."""
    n = whole_number(option, value)
    require_at_least(option, n, 1)
    if most is not None:
        require_at_most(option, n, most)
    return n


def number(option: str, value: Any) -> float:
    """Take any number as a float, so that 1 and 1.0 are one run."""
    if not isinstance(value, str | bytes | bytearray) and not _is_flag(value):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise _refused(option, value, "a number")


def text(option: str, value: Any) -> str:
    """Take text, a path, or a device of torch's."""
    if f"{type(value).__module__}.{type(value).__qualname__}" == "torch.device":
        return str(value)
    if isinstance(value, str | os.PathLike):
        return str(os.fsdecode(value))
    raise _refused(option, value, "text")


def device_name(device: Any) -> str:
    """Take the name of a device, in any case; whether it is there, torch tells later.

    Raises:
        UsageError: If it is none of "auto", "cpu", "cuda" and "cuda:N".
    """
    name = text("--device", device).lower()
    if not re.fullmatch(r"auto|cpu|cuda|cuda:[0-9]{1,4}", name):
        several = re.fullmatch(r"cpu:[0-9]+|[0-9]+|.+,.+", name)
        hint = f" extract and sweep take several: --devices {name}." if several else ""
        raise UsageError(f"--device {name!r} is none of: auto, cpu, cuda, cuda:N.{hint}")
    return name


def place(option: str, value: Any) -> Path:
    """Take the path of a file or folder, as a shell reads it."""
    return expanded(not_empty(option, text(option, value)))


def not_empty(option: str, value: str) -> str:
    """Refuse the empty text that a variable of a shell leaves if it is not set."""
    if not value:
        raise UsageError(f"{option} is empty. Nothing was started. Give a value, or leave it out.")
    return value


def flag(option: str, value: Any) -> bool:
    """Take True or False."""
    if _is_flag(value):
        return bool(value)
    raise _refused(option, value, "True or False")


def whole_numbers(option: str, value: Any) -> tuple[int, ...]:
    """Take whole numbers, or one."""
    return several(whole_number, option, value)


def numbers(option: str, value: Any) -> tuple[float, ...]:
    """Take numbers, or one."""
    return several(number, option, value)


def texts_by_name(option: str, value: Any) -> dict[str, str]:
    """Take names with a text for each."""
    if not isinstance(value, Mapping):
        raise _refused(option, value, "names with a value for each")
    return {text(option, name): text(option, item) for name, item in value.items()}


def several(read: Callable[[str, Any], T], option: str, value: Any) -> tuple[T, ...]:
    """Take several values, or one: text is one value and no sequence of letters."""
    return tuple(read(option, item) for item in (value if is_several(value) else (value,)))


def several_lists(
    read: Callable[[str, Any], tuple[T, ...]], option: str, value: Any
) -> tuple[tuple[T, ...], ...]:
    """Take several lists of values, or one value alone.

    Raises:
        UsageError: If it is one list of values, which may mean one setting or several.
    """
    lists = tuple(value) if is_several(value) else ((value,),)
    if not all(map(is_several, lists)):
        one, each = f"[{lists!r}]", repr([(item,) for item in lists])
        raise UsageError(
            f"{option} is {clipped(repr(value))}, but must be a list of lists. Nothing was "
            f"started. Write {clipped(one)} for one setting, or {clipped(each)} for several."
        )
    return tuple(read(option, item) for item in lists)


def is_several(value: Any) -> bool:
    """Tell whether a value holds others."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray)


def one_of(option: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Take a word of a list, in any case; another is refused with the nearest of the list."""
    word = text(option, value)
    for known in allowed:
        if word.lower() == known.lower():
            return known
    hint = did_you_mean(word, allowed, most=1, show=repr)
    raise UsageError(f"{option} is {word!r}, but must be one of {', '.join(allowed)}.{hint}")


def require_above_zero(option: str, value: float | None, *, or_zero: bool = False) -> None:
    """Refuse a value that is no finite number above 0."""
    assert value is not None, "settled before"
    if not (value >= 0 if or_zero else value > 0) or value == float("inf"):
        least = "a finite number of at least 0" if or_zero else "a finite number above 0"
        raise UsageError(f"{option} is {value:g}, but must be {least}.")
    if value > _MOST_FLOAT32:
        raise UsageError(f"{option} is {value:g}, but must be below {_MOST_FLOAT32:.3g}.")


def require_at_least(option: str, value: int | None, least: int) -> None:
    """Refuse a whole number that is too small."""
    if value is not None and value < least:
        raise UsageError(f"{option} is {value}, but must be at least {least}.")


def require_at_most(option: str, value: int | None, most: int) -> None:
    """Refuse a whole number that is too large."""
    if value is not None and value > most:
        raise UsageError(f"{option} is {value}, but must be at most {most}.")


def _is_flag(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # Python's, and numpy's by either name


def _refused(option: str, value: Any, wanted: str) -> UsageError:
    return UsageError(f"{option} is {clipped(repr(value))}, but must be {wanted}.")
