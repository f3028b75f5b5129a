"""What the rows of a list say, wherever the images lie that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from featcache.errors import UsageError, clipped
from featcache.images.sources.columns import LABEL_NAMES, PATH_NAMES, find_column
from featcache.images.sources.labelled_rows import LabelledRows
from featcache.images.sources.list_reader import TextList
from featcache.images.splits import FileImages


def rows_of_list(
    said: TextList,
    asked: Mapping[str, str],
    *,
    images_of: Callable[[Sequence[str]], FileImages],
) -> LabelledRows:
    """Find the columns of a list, and the images of its rows.

    Args:
        said: The list.
        asked: Columns that the dataset's name says.
        images_of: Gives the images at the paths as they stand in the list.

    Raises:
        DatasetError: If a value is not as expected, with the line.
        UsageError: If a column is not there.
    """

    def column(usual: Sequence[str], asked: str | None = None, option: str = "") -> str | None:
        return find_column(said.columns, asked, usual, option=option, where=said.where)

    of_paths = column(PATH_NAMES, asked.get("path"), "--path-column")
    if of_paths is None:
        raise _lacks(said, "path", "--path-column")
    files = said.column(of_paths)
    images = images_of(files)
    ids, splits = column(["id"]), column(["split"])
    return LabelledRows(
        where=said.where,
        place=lambda row: f"line {said.lines[row]}",
        images=images,
        files=files,
        ids=files if ids is None else _filled(said, ids),
        labels=_labels(said, asked.get("label")),
        splits=None if splits is None else said.column(splits),
    )


def _lacks(said: TextList, what: str, option: str) -> UsageError:
    names = clipped(", ".join(map(repr, said.columns)))
    return UsageError(
        f"{said.where}, line 1: there is no column {what!r}; the columns are {names}. Nothing was "
        f"extracted. Say which it is with {option}."
    )


def _labels(said: TextList, asked: str | None) -> list[str] | None:
    """Give the labels; None if there are none, because all are empty or it was said so."""
    if asked == "":
        return None
    column = find_column(
        said.columns, asked, LABEL_NAMES, option="--label-column", where=said.where
    )
    if column is None:
        raise _lacks(said, "label", "--label-column ('' for images without labels)")
    return _filled(said, column) if any(said.column(column)) else None


def _filled(said: TextList, column: str) -> list[str]:
    """Give a column in which no value may be empty."""
    texts = said.column(column)
    if "" in texts:
        raise said.refusal(texts.index(""), f"{column!r} is empty.")
    return texts
