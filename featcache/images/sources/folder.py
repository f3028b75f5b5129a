"""Image folders: train/ and test/ with a subfolder per class, or class subfolders alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from featcache.core.dataset_names import FOLDER
from featcache.core.paths import expanded, portable, resolved
from featcache.errors import DatasetError, UsageError
from featcache.images.image_files import FolderImages, bytewise, is_heic_name
from featcache.images.layout import LAYOUT, Layout, listed, read_layout
from featcache.images.sources.source import DatasetInfo, Source
from featcache.images.splits import Dataset, Split
from featcache.images.tree import FoundFiles


class Folder(Source):
    """`folder:PATH`, a folder of image files."""

    prefix = FOLDER

    def slug(self, name: str) -> str:
        """Name a cache folder after the image folder: ASCII, no slash, at most 71 characters.

        Raises:
            UsageError: If the path is missing.
        """
        path = self.path_in(name)
        if not path:
            raise UsageError("Dataset 'folder:' lacks its path. Write it as: folder:PATH")
        last = resolved(expanded(path)).name
        safe = re.sub(r"[^A-Za-z0-9.-]+", "_", last).strip("._-")[:64]
        return f"folder-{safe or 'images'}"

    def listed(self, *, data_dir: str | Path | None) -> list[DatasetInfo]:
        """Describe all image folders in one entry; only their files tell more."""
        return [
            DatasetInfo(
                name=f"{FOLDER}PATH",
                n_classes=None,
                splits=("train", "..."),
                image_size="varies",
                source="your images",
                present=None,
            )
        ]

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Read an image folder without opening an image.

        A row is a file with an image extension, however broken. Rows are sorted by the bytes of
        their paths. So are the classes, which are the folders in train/. An id is the path below
        PATH. Links are followed, each folder is read once, and hidden files are passed over.

        Raises:
            DatasetError: If the folder is missing, unreadable, not laid out as expected or without
                images, or if another split has a class that train lacks.
        """
        slug = self.slug(name)
        root = Path(os.path.abspath(expanded(self.path_in(name))))  # noqa: PTH100 (keeps links)
        layout = read_layout(root)
        class_names = layout.splits["train"].class_names
        if not class_names:
            notes = "".join(f" {note}" for note in _notes(layout))
            raise DatasetError(f"No class folder in {str(root)!r} holds an image.{notes} {LAYOUT}.")
        _check_classes(root, class_names, layout.splits)
        splits = {
            split: _split(root, split, class_names, found.images)
            for split, found in layout.splits.items()
        }
        return Dataset(name, slug, tuple(map(portable, class_names)), splits, _notes(layout))

    def path_in(self, name: str) -> str:
        """Give PATH as it was typed."""
        return name.partition(":")[2]


def _check_classes(root: Path, class_names: Sequence[str], found: Mapping[str, FoundFiles]) -> None:
    """Refuse a split with images of a class that has none in train."""
    for split, walk in found.items():
        if unknown := sorted({c for c, p in walk.images.items() if p} - set(class_names)):
            raise DatasetError(
                f"Split {split!r} of {str(root)!r} has images of {listed(unknown)}, but train has "
                f"none; train's classes are {listed(class_names)}. "
                "Rename those folders to a class of train, or move them away."
            )


def _split(
    root: Path, name: str, class_names: Sequence[str], images: Mapping[str, Sequence[str]]
) -> Split:
    rows = [(path, k) for k, c in enumerate(class_names) for path in images.get(c, ())]
    rows.sort(key=lambda row: bytewise(row[0]))
    paths = tuple(path for path, _ in rows)
    labels = np.fromiter((k for _, k in rows), dtype=np.int64, count=len(rows))
    return Split(name, FolderImages(str(root), paths), labels, tuple(map(portable, paths)))


def _notes(layout: Layout) -> tuple[str, ...]:
    """Say what was left out, as sentences with one example each."""
    walks = [*layout.splits.values(), *layout.left_out.values()]
    empty = [c for c, paths in layout.splits["train"].images.items() if not paths]
    strays = [path for walk in walks for path in walk.strays]
    others = [path for walk in walks for path in walk.others]
    repeats = [path for walk in walks for path in walk.repeats]
    notes = []
    if empty:
        notes.append(f"Classes without an image in train left out: {listed(empty)}.")
    notes += layout.notes
    if strays:
        notes.append(f"Images outside a class folder left out: {_counted(strays)}.")
    if heic := [path for path in others if is_heic_name(path)]:
        notes.append(f"{len(heic)} HEIC files left out: install featcache[heif].")
        others = [path for path in others if not is_heic_name(path)]
    if others:
        notes.append(f"Files without an image extension left out: {_counted(others)}.")
    if repeats:
        notes.append(f"Links to folders read already left out: {_counted(repeats)}.")
    return tuple(notes)


def _counted(paths: Sequence[str]) -> str:
    # repr, because a name may hold a newline or bytes that no terminal can show
    return f"{len(paths)}, e.g. {paths[0]!r}"
