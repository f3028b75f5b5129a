"""Where a page is written: no other file than an earlier page of featcache is replaced."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from featcache.core.arguments import place
from featcache.core.files import make_folder, named_failures, named_read_failures
from featcache.errors import UsageError

_SUFFIXES = (".html", ".htm")
_MARK = b'<meta name="generator" content="featcache '
_MARK_WITHIN = 4096  # bytes from the beginning


def place_of_page(out: str | os.PathLike[str]) -> Path:
    """Check where a page shall be written, before any work.

    Raises:
        UsageError: If it is no name of a page, or a file lies there that is none of featcache's.
        StorageError: If nothing can be written there.
    """
    path = place("--out", out)
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"--out is {str(path)!r}, but must end in .html. Nothing was started. Write it as: "
            f"{str(path.with_suffix('.html')) if path.name else 'page.html'!r}"
        )
    if os.path.lexists(path) and not _is_page(path):
        raise UsageError(
            f"{path} exists, and is no page that featcache wrote. Nothing was started. Remove it, "
            f"or name another file after --out."
        )
    with named_failures(path, kept="Nothing was started."):
        make_folder(path.parent)
        tempfile.TemporaryFile(dir=path.parent).close()  # no name that another process may take
    return path


def _is_page(path: Path) -> bool:
    """Tell by its beginning whether featcache wrote a file."""
    if not path.is_file():
        return False
    with named_read_failures(path), path.open("rb") as file:
        return _MARK in file.read(_MARK_WITHIN)
