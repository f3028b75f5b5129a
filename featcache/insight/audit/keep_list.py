"""Write a list of the images of a cache, without those that are there twice or cannot be read."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from featcache.core.paths import portable
from featcache.core.replace import write_new_file
from featcache.errors import UsageError, clipped
from featcache.images.image_files import FolderImages
from featcache.images.splits import UNLABELLED, Dataset
from featcache.insight.audit.result import EXACT, NEAR

if TYPE_CHECKING:  # torch takes seconds to import
    from featcache.insight.audit.duplicates import Pairs
    from featcache.insight.audit.rows import AuditedRows


def kept_rows(pairs: Pairs, rows: AuditedRows) -> npt.NDArray[np.bool_]:
    """Choose images of which no two are the same, (N,).

    Of several equal ones, one of the last split stays, so that those of "test" stay in "test" and
    leave "train"; in that split the first. Candidates are no duplicates, and stay.

    Args:
        pairs: The duplicates.
        rows: N images.
    """
    leaders = np.arange(len(rows))
    exact, near = (pairs.numbers[pairs.kinds == kind] for kind in (EXACT, NEAR))
    leaders[exact[:, 1]] = exact[:, 0]
    order = np.argsort(-rows.split_of, kind="stable")  # the last split first
    alike: dict[int, set[int]] = {}
    for a, b in leaders[near].tolist():
        alike.setdefault(a, set()).add(b)
        alike.setdefault(b, set()).add(a)
    is_kept, taken = np.zeros(len(rows), np.bool_), set[int]()
    for number, leader in zip(order.tolist(), leaders[order].tolist(), strict=True):
        if leader not in taken and taken.isdisjoint(alike.get(leader, ())):
            taken.add(leader)
            is_kept[number] = True
    return is_kept


def require_listable(dataset: Dataset | None, out: Path, why: str) -> Dataset:
    """Refuse what no list can be made of, before an audit begins.

    Args:
        dataset: The images of the cache; None if they are not here.
        out: Where the list shall go.
        why: Why they are not.

    Raises:
        UsageError: If they are no files of their own, or a file is in the list's place.
    """
    lack = ""
    if os.path.lexists(out):
        lack = "something lies there already."
    elif not out.parent.is_dir():
        lack = f"there is no folder {out.parent}."
    elif dataset is None:
        lack = f"the images are not here. {why}"
    elif not all(isinstance(split.images, FolderImages) for split in dataset.splits.values()):
        lack = f"a list names files, and the images of {dataset.name} are none of their own."
    if lack or dataset is None:
        raise UsageError(
            f"--write-list {out} is not possible: {lack} Nothing was audited. Give another file, "
            f"or leave the option out."
        )
    return dataset


def write_list(
    out: Path, rows: AuditedRows, is_kept: npt.NDArray[np.bool_], dataset: Dataset
) -> int:
    """Write a list that `list:` reads, with a line for each image that is kept.

    Args:
        out: A new file.
        rows: N images of a cache.
        is_kept: (N,).
        dataset: Where they are: files of their own.

    Returns:
        The number of lines.

    Raises:
        UsageError: If a path or a class cannot stand in a list, or `out` is there by now.
        StorageError: If it cannot be written.
    """
    lines = list(_lines(out, rows, is_kept, dataset))
    has_splits = [*rows.of_split] != [UNLABELLED]
    columns = ["path", "label", "id", "split"][: 3 + has_splits]

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(line[: len(columns)] for line in lines)
        text.detach()

    if not write_new_file(out, write):
        raise UsageError(f"{out} is there by now, and stays as it is. Give another --write-list.")
    return len(lines)


def _lines(
    out: Path, rows: AuditedRows, is_kept: npt.NDArray[np.bool_], dataset: Dataset
) -> Iterator[tuple[str, str, str, str]]:
    folder = portable(os.path.abspath(out.parent))  # noqa: PTH100 (keeps links)
    for name, own in rows.numbers.items():
        if name not in dataset.splits:  # its folder is gone
            continue
        split = dataset.splits[name]
        place = {image_id: i for i, image_id in enumerate(split.ids)}
        for number in own:
            image = rows.image(number)
            if is_kept[number] and image.id in place:  # else it is gone
                path = portable(split.images.path_of(place[image.id]))
                line = (_from(folder, path), image.label, image.id, name)
                for text in line:
                    _require_text(text, out)
                yield line


def _from(folder: str, path: str) -> str:
    """Write a path relative to the list if it lies below it, else as it is."""
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else path


def _require_text(text: str, out: Path) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{clipped(ascii(text))} is not UTF-8, so no list can name it. {out} was not written. "
            f"Give the file or folder another name."
        ) from None
