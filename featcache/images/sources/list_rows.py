"""What the rows of a list say, wherever the images lie that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from featcache.images.sources.columns import LABEL_NAMES, PATH_NAMES, find_column, require_column
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
    where = f"{said.where}, line 1,"
    of_paths = require_column(
        said.columns, asked.get("path"), PATH_NAMES, option="--path-column", where=where
    )
    files = said.column(of_paths)
    images = images_of(files)
    ids, splits = (
        find_column(said.columns, None, [name], option="", where=where) for name in ("id", "split")
    )
    return LabelledRows(
        where=said.where,
        place=lambda row: f"line {said.lines[row]}",
        images=images,
        files=files,
        ids=files if ids is None else _filled(said, ids),
        labels=_labels(said, asked.get("label")),
        splits=None if splits is None else said.column(splits),
    )


def _labels(said: TextList, asked: str | None) -> list[str] | None:
    """Give the labels; None if there are none, because all are empty or it was said so."""
    if asked == "":
        return None
    option, where = "--label-column ('' for images without labels)", f"{said.where}, line 1,"
    column = require_column(said.columns, asked, LABEL_NAMES, option=option, where=where)
    return _filled(said, column) if any(said.column(column)) else None


def _filled(said: TextList, column: str) -> list[str]:
    """Give a column in which no value may be empty."""
    texts = said.column(column)
    if "" in texts:
        raise said.refusal(texts.index(""), f"{column!r} is empty.")
    return texts
