"""Lists of images: a CSV, TSV or JSON Lines file with a path and a label in each row."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.core.dataset_names import LIST, columns_in
from featcache.core.paths import expanded
from featcache.errors import DatasetError, UsageError, clipped
from featcache.images.sources.columns import LABEL_NAMES, PATH_NAMES, find_column
from featcache.images.sources.labelled_rows import LabelledRows
from featcache.images.sources.list_reader import TextList, read_list
from featcache.images.sources.listed_files import listed_files
from featcache.images.sources.source import FileSource
from featcache.images.splits import Dataset

_METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")


class ListFile(FileSource):
    """`list:FILE`, a list of image files; or the folder of a `metadata.csv`."""

    prefix = LIST
    placeholder = "FILE"
    has_columns = True

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Read a list without opening an image; that each is there is looked up.

        Rows keep their order. Paths are relative to the list. An id is the column `id`, else the
        path as it stands there. The column `split` says train, val or test; without it all are
        train. Where all labels are empty, the images have none.

        Raises:
            DatasetError: If the list or a row of it is not as expected, with the line.
            UsageError: If a column that was asked for is not there.
        """
        slug = self.slug(name)
        path = _list_at(os.path.abspath(expanded(self.path_in(name))))  # noqa: PTH100 (keeps links)
        said, asked = read_list(path), columns_in(name)
        column = find_column(
            said.columns, asked.get("path"), PATH_NAMES, option="--path-column", where=said.where
        )
        if column is None:
            raise _lacks(said, "path", "--path-column")
        files = said.column(column)
        images = listed_files(files, os.path.dirname(path), refusal=said.refusal)  # noqa: PTH120
        ids, splits = (
            find_column(said.columns, None, (name,), option="", where=said.where)
            for name in ("id", "split")
        )
        return LabelledRows(
            where=said.where,
            place=lambda row: f"line {said.lines[row]}",
            images=images,
            files=images.paths,
            ids=files if ids is None else _filled(said, ids),
            labels=_labels(said, asked.get("label")),
            splits=None if splits is None else said.column(splits),
        ).dataset(name, slug=slug)


def _list_at(path: str) -> str:
    """Take a list, or the metadata file of a folder."""
    if not os.path.isdir(path):  # noqa: PTH112
        if not os.path.lexists(path):
            raise DatasetError(f"List {path!r} does not exist. Nothing was extracted.")
        return path
    for name in _METADATA:
        if os.path.isfile(f"{path}/{name}"):  # noqa: PTH113
            return f"{path}/{name}"
    raise DatasetError(
        f"{path!r} is a folder without {', '.join(_METADATA)}. Nothing was extracted. Name the "
        f"list itself, or take folder:PATH for class folders."
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
