"""Tables and "name  value" lines on stdout, folded where a terminal is too narrow for them.

In a pipe a row is one line, whatever its length. A path is never folded nor cut: it stands last.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from rich.cells import cell_len
from rich.markup import escape
from rich.text import Text

from featcache_cli.console import printable, show_line, stdout

_GAP = "  "
_NARROWEST = 8
_HASH = re.compile("[0-9a-f]{32,}")


def show_facts(facts: Mapping[str, object]) -> None:
    """Write "name  value" lines to stdout; a long value goes on below its beginning.

    A hash or path that has no room behind its name has a line of its own, if that is enough.
    """
    width = max(map(len, map(printable, facts)))
    room = None if (limit := _limit()) is None else max(_NARROWEST, limit - width - len(_GAP))
    for name, value in facts.items():
        if _stands_alone(value, room, limit):
            show_line(escape(printable(name)))
            show_line(escape(f"{_GAP}{printable(value)}"))
            continue
        for i, line in enumerate(_folded(value, room)):
            start = "" if i else printable(name)
            show_line(escape(f"{start.ljust(width)}{_GAP}{line}"))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table to stdout; columns whose name begins with "#" are numbers.

    A path in the last column is as long as it is. Of the others, the widest give way.
    """
    are_numbers = [column.startswith("#") for column in columns]
    titles: list[object] = [column.removeprefix("#") for column in columns]
    lines = [titles, *map(list, rows)]
    has_paths = any(isinstance(line[-1], PurePath) for line in lines)
    widths = [
        max(cell_len(printable(cell)) for cell in cells) for cells in zip(*lines, strict=True)
    ]
    if (limit := _limit()) is not None:
        n_bound = len(widths) - has_paths
        room = limit - len(_GAP) * (len(widths) - 1) - has_paths * cell_len(printable(titles[-1]))
        widths[:n_bound] = _narrowed(widths[:n_bound], room)
    for i, line in enumerate(lines):
        show_row(line, widths, are_numbers=are_numbers, is_bold=i == 0)


def show_row(
    cells: Sequence[object],
    widths: Sequence[int],
    *,
    are_numbers: Sequence[bool],
    is_bold: bool = False,
) -> None:
    """Write one row, and below it what its cells have no room for.

    Args:
        cells: Its cells.
        widths: Of its columns; the last may be left out, and takes the room that is left.
        are_numbers: Which columns stand to the right.
        is_bold: Whether it is of titles.
    """
    if len(widths) < len(cells):
        own, limit = cell_len(printable(cells[-1])), _limit()
        left = own if limit is None else limit - sum(widths) - len(_GAP) * len(widths)
        widths = [*widths, max(_NARROWEST, min(own, left))]
    folded = [
        _folded(cell, None if isinstance(cell, PurePath) else width)
        for cell, width in zip(cells, widths, strict=True)
    ]
    for j in range(max(map(len, folded))):
        parts = [lines[j] if j < len(lines) else "" for lines in folded]
        text = escape(_line(parts, widths, are_numbers))
        show_line(f"[bold]{text}[/bold]" if is_bold else text)


def _stands_alone(value: object, room: int | None, limit: int | None) -> bool:
    """Tell whether a hash or path is whole on a line of its own, and nowhere else."""
    text = printable(value)
    if room is None or limit is None or not room < cell_len(text) <= limit - len(_GAP):
        return False
    is_path = isinstance(value, PurePath) or ("/" in text and " " not in text)
    return is_path or _HASH.fullmatch(text) is not None


def _line(cells: Sequence[str], widths: Sequence[int], are_numbers: Sequence[bool]) -> str:
    paddings = [" " * (width - cell_len(cell)) for width, cell in zip(widths, cells, strict=True)]
    parts = zip(are_numbers, paddings, cells, strict=True)
    return _GAP.join(pad + c if number else c + pad for number, pad, c in parts).rstrip()


def _limit() -> int | None:
    """Columns of the terminal; None where stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _narrowed(widths: Sequence[int], room: int) -> list[int]:
    """Take from the widest until all fit, or nothing is left to take."""
    narrowed = list(widths)
    while sum(narrowed) > room and max(narrowed) > _NARROWEST:
        narrowed[narrowed.index(max(narrowed))] -= 1
    return narrowed


def _folded(value: object, room: int | None) -> list[str]:
    """Break text into lines: at spaces, within a word that has no room, never within a path."""
    text = printable(value)
    if room is None or isinstance(value, PurePath | int | float) or cell_len(text) <= room:
        return [text]
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cell_len(joined := f"{lines[-1]} {word}") <= room:
            lines[-1] = joined
        else:
            lines += [word] if "/" in word else [p.plain for p in Text(word).wrap(stdout, room)]
    return [line.rstrip() for line in lines]
