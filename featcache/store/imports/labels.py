"""Labels of a foreign file: they must be whole numbers from 0, and they decide the classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import UsageError, counted
from featcache.store.imports.sandbox import KEPT, Column

MOST_CLASSES = 65_536
_ROWS_AT_ONCE = 1 << 20  # the checks make arrays of eight bytes a label
_MOST_GAPS = 5

Labels = npt.NDArray[np.int64]


def read_labels(column: Column, split: str) -> Labels:
    """Read a column of labels, (N,).

    Raises:
        UsageError: If one is no whole number from 0 to 65535.
    """
    labels = np.empty(column.n_rows, np.int64)
    start = 0
    for part in _pieces(column):
        is_whole = np.isfinite(part) & (part == np.floor(part))
        wrong = np.flatnonzero(~(is_whole & (part >= 0) & (part < MOST_CLASSES)))
        if len(wrong):
            raise UsageError(
                f"Labels of {split} must be whole numbers from 0 to {MOST_CLASSES - 1}, but row "
                f"{start + wrong[0]} has {part[wrong[0]]}. {KEPT} {_NUMBER_ANEW}"
            )
        labels[start : start + len(part)] = part
        start += len(part)
    return labels


def _pieces(column: Column) -> Iterator[npt.NDArray[Any]]:
    for part in column.parts():
        flat = part.ravel()
        flat = flat.astype(np.uint8) if flat.dtype == np.bool_ else flat
        for start in range(0, len(flat), _ROWS_AT_ONCE):
            yield flat[start : start + _ROWS_AT_ONCE]


def named_classes(
    labels: Mapping[str, Labels],
    names: Sequence[str],
    n_classes: int | None,
    on_note: Callable[[str], None],
) -> tuple[str, ...]:
    """Decide how many classes there are, and what they are called.

    Args:
        labels: (N,) by split.
        names: K names; empty names the classes by their numbers.
        n_classes: K, where classes without a row are meant; None takes the largest label's.
        on_note: Told of classes without a row.

    Raises:
        UsageError: If K cannot be, or is more than twice the classes that have rows and was not
            asked for.
    """
    found = np.flatnonzero(sum(np.bincount(s, minlength=MOST_CLASSES) for s in labels.values()))
    _require_names(names, n_classes)
    wanted = len(names) or n_classes
    n = wanted or int(found[-1]) + 1
    said = f"labels go from {found[0]} to {found[-1]}"
    if found[-1] >= n:
        given = f"--class-names has {counted(n, 'name')}" if names else f"--n-classes is {n}"
        raise UsageError(f"{given}, but {said}. {KEPT}{_subtract(found)}")
    empty = np.setdiff1d(np.arange(n), found)
    if n > 2 * len(found) and wanted is None:
        raise UsageError(
            f"The {said}, which makes {counted(n, 'class')}, but only {len(found)} of them have "
            f"rows (without: {_ranges(empty)}). {KEPT}{_subtract(found)} {_NUMBER_ANEW} If so many "
            f"classes are meant, say --n-classes {n}."
        )
    if len(empty) and wanted is None:
        on_note(
            f"the {said}, so there are {n} classes; without a row: {_ranges(empty)}."
            f"{_subtract(found)}"
        )
    elif len(empty):
        on_note(f"{len(empty)} of {n} classes have no row: {_ranges(empty)}")
    return tuple(names) or tuple(str(i) for i in range(n))


_NUMBER_ANEW = "Number them anew with numpy.unique(labels, return_inverse=True)."


def _require_names(names: Sequence[str], n_classes: int | None) -> None:
    if n_classes is not None and not 1 <= n_classes <= MOST_CLASSES:
        raise UsageError(f"--n-classes is {n_classes}, expected 1 to {MOST_CLASSES}. {KEPT}")
    if names and n_classes not in (None, len(names)):
        raise UsageError(
            f"--class-names has {counted(len(names), 'name')}, but --n-classes is {n_classes}. "
            f"{KEPT}"
        )
    if len(set(names)) < len(names) or not all(map(str.strip, names)):
        raise UsageError(f"--class-names has a name twice, or a blank one. {KEPT}")


def _subtract(found: npt.NDArray[np.intp]) -> str:
    """Suggest what most often is wrong with labels that do not start at 0."""
    return f" Do they count from {found[0]}? Then subtract {found[0]}." if found[0] else ""


def _ranges(numbers: npt.NDArray[Any]) -> str:
    """Write ascending numbers as "0 to 6, 8"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    texts = [f"{r[0]} to {r[-1]}" if len(r) > 1 else str(r[0]) for r in runs[:_MOST_GAPS]]
    more = f", and {len(runs) - _MOST_GAPS} more gaps" if len(runs) > _MOST_GAPS else ""
    return ", ".join(texts) + more
