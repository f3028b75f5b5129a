"""What `similar` is asked about: a row of the cache, by its id, or an image file; no torch."""

from __future__ import annotations

import difflib
import heapq
import itertools
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.core.arguments import text
from featcache.core.paths import portable
from featcache.core.reporting import NoteCallback
from featcache.errors import UsageError, clipped
from featcache.store import Cache

_SHOWN = 5  # of ids that fit
_MOST_HINTS, _LIKE = 3, 0.5  # as of other names
_MOST_COMPARED = 1000  # ids that difflib compares letter by letter: of 60,000 that takes seconds


@dataclass(frozen=True)
class AskedRow:
    """A row of the cache.

    Attributes:
        split: Its split.
        row: Its number in the split.
        id: Its id.
    """

    split: str
    row: int
    id: str


def row_or_file(
    given: str | os.PathLike[str], cache: Cache, on_note: NoteCallback
) -> AskedRow | Path:
    """Find what is meant: an id, SPLIT:ID, an image file, or part of one id, in this order.

    Args:
        given: What was typed; a Path is always a file.
        cache: The cache.
        on_note: Told what was taken where two could be meant.

    Raises:
        UsageError: If there is no such row or file, or several rows could be meant.
    """
    if isinstance(given, os.PathLike):
        return _file(Path(given))
    name = portable(text("IMAGE", given))
    split, separator, rest = name.partition(":")
    splits, part = ([split], rest) if separator and split in cache else ([*cache], name)
    rows = [*_rows_of(name, cache, [*cache])] or [*_rows_of(part, cache, splits)]
    is_file = os.path.lexists(given)
    if not rows and is_file:
        return _file(Path(given))
    if not rows:
        return _row_by_part(given, part, cache, splits, on_note)
    if len(rows) > 1:
        ways = " or ".join(shlex.quote(f"{one.split}:{one.id}") for one in rows)
        raise UsageError(
            f"{given!r} is an id in several splits of {cache.path.name}. Nothing was compared. Say "
            f"which is meant: {ways}"
        )
    if is_file:
        on_note(f"{given!r} is taken as the id of a row; for the file of that name write ./{given}")
    return _with_features(rows[0], cache)


def _file(path: Path) -> Path:
    """Refuse what is no file, before anything is loaded."""
    if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name too long
        return path
    if os.path.isdir(path):  # noqa: PTH112
        raise UsageError(
            f"{path} is a folder. Nothing was compared. Name one image, or the id of a row."
        )
    there = "is no regular file" if os.path.lexists(path) else "does not exist"
    raise UsageError(f"{path} {there}. Nothing was compared. Name an image, or the id of a row.")


def _rows_of(image_id: str, cache: Cache, splits: Sequence[str]) -> Iterator[AskedRow]:
    """List the rows of an id, one of a split at most."""
    for split in splits:
        if image_id in cache[split].ids:
            yield AskedRow(split, list(cache[split].ids).index(image_id), image_id)


def _with_features(asked: AskedRow, cache: Cache) -> AskedRow:
    """Refuse a row whose image could not be read."""
    rows = cache[asked.split]
    if not rows.valid[asked.row]:
        raise UsageError(
            f"{asked.split} row {asked.row} ({asked.id!r}) of {cache.path.name} has no features: "
            f"{rows.failures[asked.id]}. Nothing was compared. Name another row, or an image."
        )
    return asked


def _row_by_part(
    given: str, part: str, cache: Cache, splits: Sequence[str], on_note: NoteCallback
) -> AskedRow:
    """Take the only row whose id has the text in it."""
    fitting = [
        AskedRow(split, row, image_id)
        for split in splits
        for row, image_id in enumerate(cache[split].ids)
        if part and part in image_id
    ]
    if len(fitting) == 1:
        [one] = fitting
        on_note(f"{given!r} is part of the id {one.id!r} alone, in split {one.split!r}")
        return _with_features(one, cache)
    if fitting:
        shown = ", ".join(f"{one.split}:{one.id}" for one in fitting[:_SHOWN])
        more = f" and {len(fitting) - _SHOWN} more" if len(fitting) > _SHOWN else ""
        raise UsageError(
            f"{clipped(repr(given))} is part of several ids of {cache.path.name}: {shown}{more}. "
            f"Nothing was compared. Give more of the id."
        )
    near = _nearest_ids(part, [image_id for split in splits for image_id in cache[split].ids])
    hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
    raise UsageError(
        f"There is no file {clipped(repr(given))}, and {cache.path.name} has no row with that id."
        f"{hint} Nothing was compared. An id is the path of an image within its dataset, or its "
        f"number."
    )


def _nearest_ids(part: str, ids: Sequence[str]) -> list[str]:
    """List the ids that are most like a text; of two alike, that which begins and ends like it."""

    def n_at_ends(image_id: str) -> int:
        return _n_alike(image_id, part) + _n_alike(reversed(image_id), reversed(part))

    few = heapq.nlargest(_MOST_COMPARED, ids, key=n_at_ends)
    ratio = {one: difflib.SequenceMatcher(None, one, part).ratio() for one in few}
    close = [one for one in ratio if ratio[one] >= _LIKE]
    return sorted(close, key=lambda one: (-ratio[one], -n_at_ends(one)))[:_MOST_HINTS]


def _n_alike(one: Iterable[str], other: Iterable[str]) -> int:
    """Count the letters before the first that differs."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
