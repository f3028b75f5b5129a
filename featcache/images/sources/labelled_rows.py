"""Rows that a list, a table or an archive gives one by one, made a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from featcache.errors import DatasetError, clipped
from featcache.images.image_names import bytewise, is_heic_name, is_image_name
from featcache.images.layout import SPLIT_OF, SPLIT_ORDER, listed
from featcache.images.splits import Dataset, FileImages, Split


@dataclass(frozen=True)
class LabelledRows:
    """What is said of N images.

    Attributes:
        where: The file that says it, for messages.
        place: Gives the place of a row in it: "line 7".
        images: The images, in its order.
        files: N names of image files, whose ending may say that they are HEIC.
        ids: N ids.
        labels: N names of classes.
        splits: N names of splits, in any case; an empty one is "train".
        class_names: The order of the classes; empty sorts them.
        notes: What a user should be told.
    """

    where: str
    place: Callable[[int], str]
    images: FileImages
    files: Sequence[str]
    ids: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def refusal(self, row: int, what: str) -> DatasetError:
        """Refuse one row, with its place."""
        return refused_at(self.where, self.place(row), what)

    def dataset(self, name: str, *, slug: str) -> Dataset:
        """Sort the rows into splits, in their order, and number the classes of train.

        Classes are sorted by the bytes of their names, or by number where all are whole numbers.

        Raises:
            DatasetError: Naming the row: a split that nobody knows, a class that train lacks, an id
                twice, a photo that cannot be read here; or if there is no train.
        """
        self._require_readable()
        rows_of = self._rows_by_split()
        class_names = self._class_names(rows_of["train"])
        number_of = {class_name: k for k, class_name in enumerate(class_names)}
        splits = {}
        for split in (split for split in SPLIT_ORDER if split in rows_of):
            rows = rows_of[split]
            ids = [self.ids[row] for row in rows]
            self._require_unique(rows, ids)
            labels = [number_of.get(self.labels[row], -1) for row in rows]
            if -1 in labels:
                row = rows[labels.index(-1)]
                raise self.refusal(
                    row,
                    f"the class is {clipped(repr(self.labels[row]))}, of which train has no image; "
                    f"train's classes are {listed(class_names)}.",
                )
            chosen = np.array(rows, np.int64)
            splits[split] = Split(
                split, self.images.take(chosen), np.array(labels, np.int64), tuple(ids)
            )
        return Dataset(name, slug, class_names, splits, self.notes)

    def _require_readable(self) -> None:
        for row, file in enumerate(self.files):
            if is_heic_name(file) and not is_image_name(file):
                raise self.refusal(
                    row, f"{file!r} is a HEIC photo. To read it, install featcache[heif]."
                )

    def _rows_by_split(self) -> dict[str, list[int]]:
        rows_of: dict[str, list[int]] = {}
        for row, said in enumerate(self.splits):
            split = SPLIT_OF.get(said.strip().lower()) if said else "train"
            if split is None:
                known = ", ".join(SPLIT_OF)
                raise self.refusal(row, f"the split is {clipped(repr(said))}, but must be {known}.")
            rows_of.setdefault(split, []).append(row)
        if "train" not in rows_of:
            what = f"only images of {listed([*rows_of])}" if rows_of else "no image"
            raise DatasetError(
                f"{self.where} has {what}; expected some of 'train'. Nothing was extracted."
            )
        return rows_of

    def _class_names(self, rows: Sequence[int]) -> tuple[str, ...]:
        there = {self.labels[row] for row in rows}
        if self.class_names:
            return tuple(name for name in self.class_names if name in there)
        if all(_is_number(name) for name in there):
            return tuple(sorted(there, key=int))
        return tuple(sorted(there, key=bytewise))

    def _require_unique(self, rows: Sequence[int], ids: Sequence[str]) -> None:
        if len(set(ids)) == len(ids):
            return
        first: dict[str, int] = {}
        for row, image_id in zip(rows, ids, strict=True):
            if image_id in first:
                raise self.refusal(
                    row,
                    f"{clipped(repr(image_id))} is there already, at "
                    f"{self.place(first[image_id])}. Leave one out, or give each row an id of its "
                    f"own in a column 'id'.",
                )
            first[image_id] = row


def refused_at(where: str, place: str, what: str) -> DatasetError:
    """Refuse a file for one place in it."""
    return DatasetError(f"{where}, {place}: {what} Nothing was extracted.")


def _is_number(name: str) -> bool:
    """Tell whether a name is a whole number as it is usually written."""
    return name.isascii() and name.isdigit() and (name == "0" or name[0] != "0")
