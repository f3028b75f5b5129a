"""What is typed behind an option, read as the library takes it."""

from __future__ import annotations

import re
from decimal import Decimal

import typer

from featcache.core.arguments import place
from featcache.core.options import AUTO
from featcache.core.store_urls import is_in_store, store_url
from featcache.errors import UsageError


def local_path(param: typer.CallbackParam, path: str | None) -> str | None:
    """Refuse an empty path or a URL before anything is made or loaded."""
    if path is not None:
        place(max(param.opts, key=len), path)
    return path


def place_or_url(param: typer.CallbackParam, path: str | None) -> str | None:
    """Take a path, or a URL of an object store where the extra for these is installed."""
    if is_in_store(path):
        store_url(str(path))
        return path
    return local_path(param, path)


def words(option: str, text: str) -> tuple[str, ...]:
    """Read "none,l2" as ("none", "l2")."""
    return tuple(part.strip() for part in text.split(","))


def number_or_auto(option: str, text: str) -> int | None:
    """Read "auto" as None.

    Raises:
        UsageError: If it is neither that nor a whole number.
    """
    if text == AUTO:
        return None
    try:
        return int(text)
    except ValueError as err:
        raise UsageError(f"{option} is {text!r}, but must be a whole number or auto.") from err


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Read "50,20" as (50, 20), and "" as ().

    Raises:
        UsageError: If a part is no whole number.
    """
    try:
        return tuple(int(part) for part in _parts(text))
    except ValueError as err:
        raise UsageError(
            f"{option} is {text!r}, but must be whole numbers with commas between, like 50,20."
        ) from err


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Read "0.5,0.3" as (0.5, 0.3), and "" as ().

    Raises:
        UsageError: If a part is no number.
    """
    try:
        return tuple(float(part) for part in _parts(text))
    except ValueError as err:
        raise UsageError(
            f"{option} is {text!r}, but must be numbers with commas between, like 0.5,0.3."
        ) from err


def n_bytes(option: str, text: str) -> int:
    """Read "8GB" as 8,000,000,000; kB, MB, GB and TB, or bytes.

    Raises:
        UsageError: If it is no such size.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(k|M|G|T|)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"{option} is {text!r}, but must be a size like 500MB or 8GB.")
    number, unit = found.groups()
    size = int(Decimal(number) * 1000 ** ["", "k", "m", "g", "t"].index(unit.lower()))
    if not size:
        raise UsageError(f"{option} is {text!r}, but must be above 0.")
    return size


def pairs(option: str, texts: list[str]) -> dict[str, str]:
    """Read "vgg16=mobilenet_v2" as {"vgg16": "mobilenet_v2"}.

    Raises:
        UsageError: If one is no such pair.
    """
    read = {}
    for text in texts:
        name, separator, backbone = text.partition("=")
        if not (separator and name and backbone):
            raise UsageError(
                f"{option} is {text!r}, but must be like vgg16=mobilenet_v2: the notebook's "
                f"backbone, and the one that stands in for it."
            )
        read[name] = backbone
    return read


def _parts(text: str) -> list[str]:
    return text.split(",") if text.strip() else []
