"""Paths, read as a shell reads them, and with the same names in every locale."""

from __future__ import annotations

import os
import re
from pathlib import Path

from featcache.core.store_urls import is_in_store, shown
from featcache.errors import UsageError, clipped

# "s3://bucket" and, once it was a Path, "s3:/bucket": open() would make a folder called "s3:".
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")

_MOST_IN_A_NAME, _MOST_IN_A_PATH = 255, 4095  # NAME_MAX; PATH_MAX without the zero that ends it


def expanded(path: str | os.PathLike[str]) -> Path:
    """Replace `~` and `~user` by the home folder.

    The name of a user who does not exist stays as it is; `Path.expanduser` raises a RuntimeError.

    Raises:
        UsageError: If it is no path, a URL (`./s3:/x` is a path), empty, or longer than Linux takes
            one.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UsageError(f"{clipped(repr(path))} is no path. Nothing was started.")
    text = os.path.expanduser(path)  # noqa: PTH111
    if _URL.match(text):
        if is_in_store(text):
            raise UsageError(
                f"{shown(text)!r} is in an object store, but this takes a file of this machine. "
                f"Nothing was started. Only the parts of a cache may be in a store. To bring them "
                f"here, use: featcache cache merge URL. To remove them, use the store's own tools."
            )
        raise UsageError(
            f"{shown(text)!r} is a URL, but featcache reads and writes files of this machine, and "
            f"parts of caches in stores: s3://, gs:// and az://, with two slashes. Nothing was "
            f"started. Mount or copy the files, and give their path."
        )
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:  # written in Python, with letters that the locale lacks
        text = native(text)
        raw = text.encode(errors="surrogatepass")
    longest = max(map(len, raw.split(b"/")))
    if longest > _MOST_IN_A_NAME or len(raw) > _MOST_IN_A_PATH or b"\0" in raw:
        raise UsageError(
            f"{clipped(text, 40)!r} is no path: it has {len(raw)} bytes, {longest} of them in one "
            f"name, but at most {_MOST_IN_A_PATH} and {_MOST_IN_A_NAME} are possible, and none may "
            f"be zero. Nothing was started."
        )
    return Path(text)


def user_cache_folder() -> Path | None:
    """Name featcache's folder for files that may be lost: in XDG_CACHE_HOME, or in `~/.cache`.

    None where the user has no home. A relative path in the variable is ignored, as its
    specification asks: https://specifications.freedesktop.org/basedir/latest/
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = named if named.is_absolute() else expanded("~/.cache")
    return home / "featcache" if home.is_absolute() else None


def settled(path: str | os.PathLike[str]) -> Path:
    """Expand a path and make it absolute, so that it means the same after a change of folder."""
    return Path.cwd() / expanded(path)


def file_and_part(name: str) -> tuple[str, str]:
    """Split "FILE#PART" into file and part; the whole is the file if a file has that name."""
    file, mark, part = name.rpartition("#")
    is_whole = not mark or os.path.lexists(expanded(name))
    return (name, "") if is_whole else (file, part)


def resolved(path: Path) -> Path:
    """Follow links, also those in a circle, for which `Path.resolve` raises a RuntimeError."""
    return Path(os.path.realpath(path))


def places_of(path: Path, *, named_in: Path) -> list[Path]:
    """List where a path that a cache names may be: beside the cache, above it, or here.

    Args:
        path: As the cache names it; an absolute one is at one place.
        named_in: The cache, in the folder of its dataset in a --cache-dir; these two are no places.
    """
    above = resolved(named_in).parents
    places = dict.fromkeys([*(parent / path for parent in above), Path.cwd() / path])
    return [place for place in places if resolved(place) not in above[:2]]


def portable(name: str | os.PathLike[str]) -> str:
    """Read a file's name as UTF-8, in every locale.

    So a file has the same name in every cache. Bytes that are not UTF-8 become surrogate escapes.
    Under a UTF-8 locale names do not change.
    """
    try:
        return os.fsencode(name).decode(errors="surrogateescape")
    except UnicodeEncodeError:
        return os.fspath(name)


def native(name: str) -> str:
    """Write a portable name as this process's locale reads its bytes, so that it can be opened."""
    try:
        return os.fsdecode(name.encode(errors="surrogateescape"))
    except UnicodeEncodeError:  # a surrogate that stands for no byte: nothing has that name
        return name


def is_utf8(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path's text is its bytes read as UTF-8, as libraries in C++ take it."""
    text = os.fspath(path)
    return text.isprintable() and portable(text) == text


def healed(name: str) -> str:
    """Replace surrogate escapes that are UTF-8 by its letters; 0.1 may have written them."""
    try:
        return name.encode(errors="surrogateescape").decode(errors="surrogateescape")
    except UnicodeEncodeError:
        return name
