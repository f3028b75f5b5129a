"""The packages that featcache needs, and those of its extras, by what pip wrote of them."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from featcache.machine.finding import OK, PROBLEM, WARNING, Finding
from featcache.version import __version__

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:>=\s*(?P<least>[0-9.]+))?"
    r"(?:.*;.*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"])?"
)
# What the extras of a user are for; those of developers are none of his.
_EXTRAS = {
    "demo": "the dataset digits",
    "plot": "pictures of eval and probe",
    "heif": "HEIC photos",
    "parquet": "Parquet files",
    "timm": "timm's backbones",
    "onnx": "ONNX files",
    "ray": "shares on a Ray cluster",
}


class Requirement(NamedTuple):
    """A package that featcache, or one of its extras, asks for.

    Attributes:
        name: The package.
        least: Its lowest version; empty if any will do.
        extra: The extra that asks; empty for featcache itself.
    """

    name: str
    least: str
    extra: str


def look() -> Iterator[Finding]:
    """Look at all of them, as they are installed here."""
    yield Finding(
        "featcache", OK, f"{__version__}, Python {platform.python_version()} ({sys.executable})"
    )
    try:
        asked = requires("featcache") or []
    except PackageNotFoundError:
        yield Finding(
            "packages",
            WARNING,
            "featcache is not installed as a package, so what it needs is not known",
            "Install it: pip install .",
        )
        return
    yield from findings([requirement_of(text) for text in asked], version_of=installed_version)


def installed_version(name: str) -> str | None:
    """Give the version of a package as pip wrote it; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirement_of(text: str) -> Requirement:
    """Read a requirement as pip writes it: 'timm>=1.0.20; extra == "timm"'."""
    found = _REQUIREMENT.match(text)
    assert found is not None, "pip wrote it"
    return Requirement(found["name"], found["least"] or "", found["extra"] or "")


def findings(
    asked: Iterable[Requirement], *, version_of: Callable[[str], str | None]
) -> Iterator[Finding]:
    """Compare what is asked for with what is there.

    Args:
        asked: The requirements.
        version_of: Gives the version of a package; None if it is not installed.
    """
    asked = list(asked)
    needed = [one for one in asked if not one.extra]
    good = [one for one in needed if not _lack(one, version_of)]
    if good:
        yield Finding("packages", OK, ", ".join(f"{r.name} {version_of(r.name)}" for r in good))
    for one in needed:
        if lack := _lack(one, version_of):
            yield Finding(one.name, PROBLEM, lack, f"Install it: {_command([one])}")
    for extra, use in _EXTRAS.items():
        of_extra = [one for one in asked if one.extra == extra]
        lacks = [(one, lack) for one in of_extra if (lack := _lack(one, version_of))]
        old = [f"{one.name} {lack}" for one, lack in lacks if version_of(one.name) is not None]
        if old:
            way_out = f"Install it: {_command(one for one, _ in lacks)}"
            yield Finding(f"extra {extra}", WARNING, f"{', '.join(old)}: for {use}", way_out)
    yield _extras(asked, version_of)


def _extras(asked: list[Requirement], version_of: Callable[[str], str | None]) -> Finding:
    """Say which extras are installed, and what the others are for."""
    here, absent = [], []
    for extra, use in _EXTRAS.items():
        names = [one.name for one in asked if one.extra == extra]
        if names and all(version_of(name) for name in names):
            here.append(extra)
        else:
            absent.append(f"{extra} ({use})")
    said = f"installed: {', '.join(here) or 'none'}"
    if not absent:
        return Finding("extras", OK, said)
    return Finding(
        "extras",
        OK,
        f"{said}; not installed: {', '.join(absent)}",
        f"Where you want one: pip install 'featcache[{absent[0].partition(' ')[0]}]'",
    )


def _lack(asked: Requirement, version_of: Callable[[str], str | None]) -> str:
    """Say what is wrong with a package; empty if nothing is."""
    found = version_of(asked.name)
    if found is None:
        return "is not installed"
    if asked.least and _release(found) < _release(asked.least):
        return f"{found} is too old: {asked.least} or newer is needed"
    return ""


def _release(version: str) -> tuple[int, ...]:
    """Read the numbers of a version: "2.14.1+cpu" is (2, 14, 1)."""
    start = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, start[0].split("."))) if start else ()


def _command(asked: Iterable[Requirement]) -> str:
    wanted = " ".join(f"'{r.name}>={r.least}'" if r.least else r.name for r in asked)
    return f"pip install {wanted}"
