"""Lists of images: a CSV, TSV or JSON Lines file with a path and a label in each row."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.core.dataset_names import LIST, columns_in
from featcache.core.paths import expanded
from featcache.errors import DatasetError
from featcache.images.sources.list_reader import METADATA, read_list
from featcache.images.sources.list_rows import rows_of_list
from featcache.images.sources.listed_files import listed_files
from featcache.images.sources.source import FileSource
from featcache.images.splits import Dataset


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
        said, folder = read_list(path), os.path.dirname(path)  # noqa: PTH120
        rows = rows_of_list(
            said,
            columns_in(name),
            images_of=lambda files: listed_files(files, folder, refusal=said.refusal),
        )
        return rows.dataset(name, slug=slug)


def _list_at(path: str) -> str:
    """Take a list, or the metadata file of a folder."""
    if not os.path.isdir(path):  # noqa: PTH112
        if not os.path.lexists(path):
            raise DatasetError(f"List {path!r} does not exist. Nothing was extracted.")
        return path
    for name in METADATA:
        if os.path.isfile(f"{path}/{name}"):  # noqa: PTH113
            return f"{path}/{name}"
    raise DatasetError(
        f"{path!r} is a folder without {', '.join(METADATA)}. Nothing was extracted. Name the "
        f"list itself, or take folder:PATH for class folders."
    )
