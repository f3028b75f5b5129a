"""`featcache help` and `featcache version`."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from featcache.version import __version__
from featcache_cli.console import show_json
from featcache_cli.options import JsonOption
from featcache_cli.tables import show_facts

# What decides the numbers, and what reads and writes them.
_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "h5py",
    "pillow",
    "safetensors",
    "typer",
)


def help_(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="As in: help cache verify.")
    ] = None,
) -> None:
    """Show how a command is used."""
    root = ctx.find_root()
    root.command.main([*(command or []), "--help"], prog_name=root.info_name)


def version_(json: JsonOption = False) -> None:
    """Show the versions of featcache and of what decides results."""
    facts: dict[str, object] = {
        "featcache": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    for package in _PACKAGES:
        facts[package] = _version_of(package)
    if json:
        show_json(facts)
    else:
        show_facts({name: fact or "not installed" for name, fact in facts.items()})


def _version_of(package: str) -> str | None:
    try:
        found = version(package)
    except PackageNotFoundError:
        return None
    # torch's metadata leave out which build it is (+cpu, +cu130); importing it takes seconds.
    spec = find_spec(package) if package == "torch" else None
    if spec is not None and spec.origin is not None:
        source = Path(spec.origin).with_name("version.py")
        stated = re.search(r"__version__ = '(.+)'", source.read_text()) if source.exists() else None
        return found if stated is None else stated[1]
    return found
