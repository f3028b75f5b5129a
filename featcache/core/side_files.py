"""The names of the files beside a file or folder that is being made."""

from __future__ import annotations

from pathlib import Path

_PARTIAL = ".partial"
_PARTS = ".parts"


def lock_path(path: Path) -> Path:
    """Name the file by which one process at a time writes `path`."""
    return path.with_name(path.name + ".lock")


def partial_path(path: Path) -> Path:
    """Name the place where `path` is made; it gets its own name when it is complete."""
    return path.with_name(path.name + _PARTIAL)


def newborn_path(path: Path) -> Path:
    """Name the place where a cache's partial file is made, before it can be resumed."""
    return path.with_name(path.name + ".new")


def parts_folder(path: Path) -> Path:
    """Name the folder of the parts of a cache, which several machines make."""
    return path.with_suffix(_PARTS)


def is_parts_folder(path: Path) -> bool:
    """Tell whether this is the name of a folder of parts."""
    return path.suffix == _PARTS


def report_path(path: Path) -> Path:
    """Name the file beside a cache that keeps what `report` computed of it."""
    return path.with_name(path.name + ".report.json")


def is_partial(path: Path) -> bool:
    """Tell whether this is the name of something that is not complete."""
    return path.suffix == _PARTIAL


def finished_path(path: Path) -> Path:
    """Name what a partial file or folder will be; other paths stay as they are."""
    return path.with_suffix("") if is_partial(path) else path
