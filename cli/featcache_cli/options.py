"""The options that several commands share, each written once."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

import typer

from featcache.config import RECIPES
from featcache.core.paths import expanded
from featcache.errors import UsageError
from featcache_cli import completion as complete


def local_path(path: str | None) -> str | None:
    """Refuse a URL before anything is made or loaded."""
    if path is not None:
        expanded(path)
    return path


JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout.")]
CacheDirOption = Annotated[str, typer.Option(help="Folder of all caches.", callback=local_path)]
DataDirOption = Annotated[
    str, typer.Option(help="Folder of downloaded datasets.", callback=local_path)
]
ImageSizeOption = Annotated[int, typer.Option(help="Side of the backbone's input, in pixels.")]
RecipeOption = Annotated[
    str,
    typer.Option(
        help="What is taken where nothing is given: notebook has its constants, general 1e-3 and "
        "early stopping; auto: notebook on its own data and backbones, else general.",
        autocompletion=complete.one_of(*RECIPES),
    ),
]
RunsDirOption = Annotated[str, typer.Option(help="Folder of all runs.", callback=local_path)]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda or cuda:N.", autocompletion=complete.one_of("auto", "cpu", "cuda")
    ),
]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        help="Memory for features, like 8GB; more are read in windows.  [default: what is free]"
    ),
]
NWorkersOption = Annotated[
    str, typer.Option(help="Decoding processes for image files; auto: one a core.")
]
MixNumericsOption = Annotated[
    bool, typer.Option("--mix-numerics", help="Go on with a file that another machine began.")
]
SkipUndecodableOption = Annotated[
    bool,
    typer.Option("--skip-undecodable", help="Go on where this machine cannot decode an image."),
]
CacheArgument = Annotated[
    str,
    typer.Argument(
        help="A cache file, or part of its name as `cache ls` shows it.",
        autocompletion=complete.caches,
    ),
]
AUTO = "auto"


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


def _parts(text: str) -> list[str]:
    return text.split(",") if text.strip() else []
