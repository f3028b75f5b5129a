"""Parquet files of images, as hubs of datasets have them: the bytes in a column, or paths."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.dataset_names import PARQUET, columns_in
from featcache.core.paths import expanded
from featcache.errors import DatasetError, clipped
from featcache.images.packed_images import Pack
from featcache.images.parquet_images import ParquetImages
from featcache.images.sources.columns import LABEL_NAMES, find_column, require_column
from featcache.images.sources.labelled_rows import MOST_CHARACTERS, LabelledRows, refused_at
from featcache.images.sources.listed_files import listed_files
from featcache.images.sources.parquet_schema import (
    group_lengths,
    image_column,
    names_of_classes,
    read_schema,
    read_texts,
    require_text,
)
from featcache.images.sources.shards import expand_shards, shards_exist, splits_of_shards
from featcache.images.sources.source import FileSource
from featcache.images.splits import Dataset, FileImages

_MOST_ROWS = 2**26  # of which the ids and places alone take ten gigabytes


class Parquet(FileSource):
    """`parquet:FILE`, `parquet:data/train-*.parquet`, read with pyarrow alone."""

    prefix = PARQUET
    placeholder = "FILES"
    has_columns = True

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Read all columns but the images; rows keep their order.

        The images are a column of bytes, a struct of bytes and path, or a column of paths relative
        to the first file. An id is the column `id`, else the path in the struct where all are
        there and no two alike, else the number of the row. The split is the column `split`, else
        what the words in the files' names say.

        Raises:
            DatasetError: If pyarrow is missing, or a file or a row is not as expected, with the
                row group.
            UsageError: If a column that was asked for is not there.
        """
        slug = self.slug(name)
        if importlib.util.find_spec("pyarrow") is None:
            raise DatasetError(
                f"Dataset {name!r} needs the package 'pyarrow', which is not installed here. "
                f'Install it with: pip install "featcache[parquet]"'
            )
        pattern = os.path.abspath(expanded(self.path_in(name)))  # noqa: PTH100 (keeps links)
        return (
            _Table.opened(expand_shards(pattern), columns_in(name)).rows().dataset(name, slug=slug)
        )

    def is_there(self, name: str) -> bool:
        """Tell whether some file is at the path."""
        return shards_exist(os.fspath(expanded(self.path_in(name))))


@dataclass(frozen=True, eq=False)
class _Table:
    """The columns of Parquet files, but for the images.

    Attributes:
        packs: The files.
        image: The column of images, as pyarrow finds it: "image.bytes", "image", "path".
        is_bytes: Whether it holds bytes, and no paths.
        of: The values of each other column that counts, by what it is: label, id, split, name.
        class_names: Of the labels, where they are numbers with names.
        places: (N, 3) int64, as `ParquetImages` has them.
    """

    packs: tuple[Pack, ...]
    image: str
    is_bytes: bool
    of: dict[str, list[Any]]
    class_names: tuple[str, ...]
    places: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def opened(cls, files: tuple[str, ...], asked: dict[str, str]) -> _Table:
        """Read what counts of all row groups."""
        packs = tuple(map(Pack.at, files))
        schema = read_schema(files[0])
        image, is_bytes, file_name = image_column(schema, asked.get("path"), files[0])
        columns = _columns(schema, asked, files[0])
        for column in columns.values():
            require_text(schema, column, files[0])
        if file_name:
            columns["name"] = file_name
        of: dict[str, list[Any]] = {kind: [] for kind in columns}
        places = [np.empty((0, 3), np.int64)]
        read = sorted(set(columns.values()))
        for i, path in enumerate(files):
            if not read_schema(path).equals(schema):
                raise DatasetError(
                    f"{path!r} has other columns than {files[0]!r}. Nothing was extracted. Name "
                    f"files of one kind."
                )
            lengths = group_lengths(path, {image, *read})
            _require_few(sum(map(len, places)) + sum(lengths), files)
            for group, n_rows in enumerate(lengths):
                values = read_texts(path, group, read)
                for kind, column in columns.items():
                    of[kind] += values[column]
                where = np.array([(i, group)]).repeat(n_rows, 0)
                places.append(np.column_stack([where, np.arange(n_rows)]))
        names = names_of_classes(schema, columns["label"]) if "label" in columns else ()
        return cls(packs, image, is_bytes, of, names, np.concatenate(places))

    @property
    def files(self) -> list[str]:
        """The absolute paths of the files."""
        return [pack.path for pack in self.packs]

    @property
    def where(self) -> str:
        """Say which files it is, for messages."""
        return repr(self.files[0]) if len(self.files) == 1 else f"{len(self.files)} files"

    def place(self, row: int) -> str:
        """Say where a row is."""
        file, group, at = map(int, self.places[row])
        of = "" if len(self.files) == 1 else f" of {self.files[file]!r}"
        return f"row group {group}{of}, row {at}"

    def refusal(self, row: int, what: str) -> DatasetError:
        """Refuse a row."""
        return refused_at(self.where, self.place(row), what)

    def rows(self) -> LabelledRows:
        """Say all that is known of each row."""
        n = len(self.places)
        self._require_short()
        names = [name or "" for name in self.of.get("name", [None] * n)]
        notes: tuple[str, ...] = ()
        if "id" in self.of:
            ids = self._texts("id")
        elif "" in names or len(set(names)) < n:
            ids = [str(row) for row in range(n)]
            notes = ("Ids are the numbers of the rows: paths are missing, or some are alike.",)
        else:
            ids = names
        of_files = splits_of_shards(self.files)
        splits = None if of_files is None else [of_files[i] for i in self.places[:, 0]]
        images: FileImages
        if self.is_bytes:
            images = ParquetImages(
                packs=self.packs, names=tuple(names), places=self.places, column=self.image
            )
        else:
            folder = os.path.dirname(self.files[0])  # noqa: PTH120
            images = listed_files(names, folder, refusal=self.refusal)
        return LabelledRows(
            where=self.where,
            place=self.place,
            images=images,
            files=names,
            ids=ids,
            labels=self._labels(),
            splits=self._texts("split") if "split" in self.of else splits,
            class_names=self.class_names,
            notes=notes,
        )

    def _require_short(self) -> None:
        """Refuse texts so long that a copy for each row would fill the memory."""
        for kind, values in self.of.items():
            for row, value in enumerate(values):
                if isinstance(value, str) and len(value) > MOST_CHARACTERS:
                    raise self.refusal(
                        row,
                        f"the {kind} has {len(value)} characters; at most {MOST_CHARACTERS} are "
                        f"possible.",
                    )

    def _labels(self) -> list[str] | None:
        if all(label is None for label in self.of.get("label", ())):
            return None
        labels = self._texts("label")
        if not self.class_names:
            return labels
        for row, label in enumerate(labels):
            if not 0 <= int(label) < len(self.class_names):
                raise self.refusal(
                    row, f"the label is {label}, but there are {len(self.class_names)} classes."
                )
        return [self.class_names[int(label)] for label in labels]

    def _texts(self, kind: str) -> list[str]:
        texts = []
        for row, value in enumerate(self.of[kind]):
            if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
                shown = "missing" if value in (None, "") else clipped(repr(value), 60)
                raise self.refusal(
                    row, f"the {kind} is {shown}, but must be text or a whole number."
                )
            texts.append(str(value))
        return texts


def _columns(schema: Any, asked: Mapping[str, str], path: str) -> dict[str, str]:
    """Find the columns beside the images, by what they are."""

    def find(kind: str) -> str | None:
        return find_column(schema.names, None, [kind], option="", where=repr(path))

    columns = {kind: found for kind in ("id", "split") if (found := find(kind)) is not None}
    if asked.get("label") != "":
        option = "--label-column ('' for images without labels)"
        columns["label"] = require_column(
            schema.names, asked.get("label"), LABEL_NAMES, option=option, where=repr(path)
        )
    return columns


def _require_few(n_rows: int, files: Sequence[str]) -> None:
    if n_rows > _MOST_ROWS:
        raise DatasetError(
            f"{len(files)} Parquet files from {files[0]!r} on have more than {_MOST_ROWS} rows, "
            f"which is the most that are read. Nothing was extracted. Name fewer files."
        )
