"""Rows that a list, a table or an archive gives one by one, made a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.errors import DatasetError, clipped
from featcache.images.image_names import bytewise, is_heic_name, is_image_name
from featcache.images.layout import SPLIT_OF, SPLIT_ORDER, listed
from featcache.images.splits import UNLABELLED, Dataset, FileImages, Split

MOST_CHARACTERS = 4096  # as of a path


@dataclass(frozen=True)
class LabelledRows:
    """What is said of N images.

    Attributes:
        where: The file that says it, for messages.
        place: Gives the place of a row in it: "line 7".
        images: The images, in its order.
        files: N names of image files, whose ending may say that they are HEIC.
        ids: N ids.
        labels: N names of classes; None for images without labels.
        splits: N names of splits, in any case; an empty one is "train". None is one split: "train",
            or "all" where there are no labels.
        class_names: The order of the classes; empty sorts them.
        notes: What a user should be told.
    """

    where: str
    place: Callable[[int], str]
    images: FileImages
    files: Sequence[str]
    ids: Sequence[str]
    labels: Sequence[str] | None
    splits: Sequence[str] | None
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
        self._require_texts()
        rows_of = self._rows_by_split()
        class_names = () if self.labels is None else self._class_names(self.labels, rows_of)
        splits = {}
        for split in (split for split in (*SPLIT_ORDER, UNLABELLED) if split in rows_of):
            rows = rows_of[split]
            ids = tuple(self.ids[row] for row in rows)
            self._require_unique(rows, ids)
            labels = None if self.labels is None else self._numbers(self.labels, rows, class_names)
            splits[split] = Split(split, self.images.take(np.array(rows, np.int64)), labels, ids)
        return Dataset(name, slug, class_names, splits, self.notes)

    def _numbers(
        self, labels: Sequence[str], rows: Sequence[int], class_names: Sequence[str]
    ) -> npt.NDArray[np.int64]:
        number_of = {class_name: k for k, class_name in enumerate(class_names)}
        numbers = [number_of.get(labels[row], -1) for row in rows]
        if -1 in numbers:
            row = rows[numbers.index(-1)]
            raise self.refusal(
                row,
                f"the class is {clipped(repr(labels[row]))}, of which train has no image; "
                f"train's classes are {listed(class_names)}.",
            )
        return np.array(numbers, np.int64)

    def _require_readable(self) -> None:
        for row, file in enumerate(self.files):
            if is_heic_name(file) and not is_image_name(file):
                raise self.refusal(
                    row, f"{file!r} is a HEIC photo. To read it, install featcache[heif]."
                )

    def _require_texts(self) -> None:
        """Refuse ids and labels that are no text, or so long that all rows need as much room."""
        for texts in (self.ids, self.labels or ()):
            for row, text in enumerate(texts):
                if not _is_text(text):
                    raise self.refusal(
                        row,
                        f"{clipped(ascii(text), 60)} is no id or label: it has half of a character "
                        f"(a surrogate).",
                    )
                if len(text) > MOST_CHARACTERS:
                    raise self.refusal(
                        row,
                        f"{clipped(repr(text), 40)} is no id or label: at most {MOST_CHARACTERS} "
                        f"characters are possible.",
                    )

    def _rows_by_split(self) -> dict[str, list[int]]:
        rows_of: dict[str, list[int]] = {}
        if self.splits is None and self.ids:
            return {UNLABELLED if self.labels is None else "train": [*range(len(self.ids))]}
        for row, said in enumerate(self.splits or ()):
            split = SPLIT_OF.get(said.strip().lower()) if said else "train"
            if split is None:
                known = ", ".join(SPLIT_OF)
                raise self.refusal(row, f"the split is {clipped(repr(said))}, but must be {known}.")
            rows_of.setdefault(split, []).append(row)
        if not rows_of or (self.labels is not None and "train" not in rows_of):
            what = f"only images of {listed([*rows_of])}" if rows_of else "no image"
            raise DatasetError(
                f"{self.where} has {what}; expected some of 'train'. Nothing was extracted."
            )
        return rows_of

    def _class_names(
        self, labels: Sequence[str], rows_of: Mapping[str, Sequence[int]]
    ) -> tuple[str, ...]:
        there = {labels[row] for row in rows_of["train"]}
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


def _is_text(text: str) -> bool:
    """Tell whether a text has bytes: JSON can hold characters that UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
