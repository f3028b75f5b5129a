"""Look at this machine: what featcache needs, what is there, and what to do about the rest."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from featcache.config import ExtractSpec, RunSpec
from featcache.core.arguments import place
from featcache.core.reporting import silent
from featcache.errors import clipped
from featcache.machine.finding import PROBLEM, Checkup, Finding

FindingCallback = Callable[[Finding], None]


def doctor(
    *,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    on_finding: FindingCallback | None = None,
) -> Checkup:
    """Look at packages, devices, memory, folders, compiler, weights and datasets.

    Nothing is downloaded, and nothing stays: the folders are tried with a small file. What cannot
    be looked at is a finding too, so that a broken installation can be looked at as well.

    Args:
        cache_dir: Folder of all caches; where it is missing, the folder that it would be made in is
            tried.
        runs_dir: Folder of all runs, likewise.
        data_dir: Folder of downloaded datasets.
        on_finding: Called with each finding when it is there; all take some seconds.

    Raises:
        UsageError: If a folder is no path.
    """
    caches, runs = place("--cache-dir", cache_dir), place("--runs-dir", runs_dir)
    data = place("--data-dir", data_dir)
    tell = on_finding or silent
    # The modules are imported when their turn comes: a package that they need may be missing.
    looks = (
        ("packages", "packages", ()),
        ("torch", "torch_facts", ()),
        ("compiler", "compiler", ()),
        ("cache folder", "folders", ("cache folder", "--cache-dir", caches)),
        ("runs folder", "folders", ("runs folder", "--runs-dir", runs)),
        ("datasets", "holdings", (data, caches)),
    )
    found: list[Finding] = []
    for subject, module, arguments in looks:
        for finding in _looked(subject, partial(_look, module, *arguments)):
            found.append(finding)
            tell(finding)
    return Checkup(tuple(found))


def _look(module: str, *arguments: object) -> Iterable[Finding]:
    found: Iterable[Finding] = importlib.import_module(f"featcache.machine.{module}").look(
        *arguments
    )
    return found


def _looked(subject: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Give what is found, and what keeps us from looking."""
    try:
        yield from look()
    except Exception as err:  # whatever is broken here, the rest is looked at
        first_line = clipped(str(err).partition("\n")[0])
        said = f"cannot be looked at: {type(err).__name__}: {first_line}"
        yield Finding(subject, PROBLEM, said, "Install featcache again, in a new environment.")
