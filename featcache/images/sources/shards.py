"""Several files under one name: `pets-{000..009}.tar`, `train-*.parquet`."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from featcache.errors import DatasetError
from featcache.images.image_names import bytewise
from featcache.images.layout import splits_meant

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 100_000


def expand_shards(pattern: str) -> tuple[str, ...]:
    """List the files that a pattern means: a file of that very name, else all that match.

    Braces keep their order, and `{000..009}` counts. What `*` and `?` match is sorted by bytes.

    Raises:
        DatasetError: If a part of it matches nothing, or the braces mean too many.
    """
    if os.path.lexists(pattern):
        return (pattern,)
    names = list(itertools.islice(_braces_expanded(pattern), _MOST + 1))
    if not 0 < len(names) <= _MOST:
        what = f"more than {_MOST} files" if names else "no file, since it counts downwards"
        raise DatasetError(f"{pattern!r} means {what}. Nothing was extracted.")
    found: dict[str, None] = {}
    for name in names:
        there = sorted(glob.glob(name), key=bytewise)  # noqa: PTH207
        if not there:
            more = f" (of {pattern!r})" if name != pattern else ""
            raise DatasetError(f"There is no file {name!r}{more}. Nothing was extracted.")
        found |= dict.fromkeys(there)
    return tuple(found)


def shards_exist(pattern: str) -> bool:
    """Tell whether a pattern means some file."""
    try:
        return bool(expand_shards(pattern))
    except DatasetError:
        return False


def splits_of_shards(paths: Sequence[str]) -> list[str] | None:
    """Tell the split of each file by the words of its name; None if they mean one at most.

    A file whose split cannot be told among others has "?".
    """
    meant = [splits_meant(Path(path).stem) for path in paths]
    if len({split for splits in meant for split in splits}) < 2:
        return None
    return [min(splits) if len(splits) == 1 else "?" for splits in meant]


def _braces_expanded(pattern: str) -> Iterator[str]:
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    start, end = pattern[: braces.start()], pattern[braces.end() :]
    for choice in _choices(braces[1]):
        yield from (f"{start}{choice}{rest}" for rest in _braces_expanded(end))


def _choices(inside: str) -> Iterator[str]:
    counted = _RANGE.fullmatch(inside)
    if counted is None:
        yield from inside.split(",")
        return
    first, last = counted.groups()
    for number in range(int(first), int(last) + 1):
        yield f"{number:0{len(first)}d}"
