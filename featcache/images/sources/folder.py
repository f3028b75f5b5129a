"""Image folders: train/ and test/ with a subfolder per class, or class subfolders alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from featcache.core.paths import expanded, portable
from featcache.errors import DatasetError
from featcache.images.image_files import FolderImages, bytewise, is_heic_name
from featcache.images.layout import LAYOUT, Layout, listed, read_layout
from featcache.images.splits import Dataset, Split
from featcache.images.tree import Found


def load_folder(path: str | Path, *, name: str, slug: str) -> Dataset:
    """Read an image folder without opening an image.

    A row is a file with an image extension, however broken; rows are sorted by the bytes of their
    paths, and so are the classes, which are the folders in train/. An id is the path below `path`.
    Links are followed, each folder is read once, and hidden files are passed over.

    Raises:
        DatasetError: If the folder is missing, unreadable, not laid out as expected or without
            images, or if another split has a class that train lacks.
    """
    root = Path(os.path.abspath(expanded(path)))  # noqa: PTH100 (keeps links)
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


def _check_classes(root: Path, class_names: Sequence[str], found: Mapping[str, Found]) -> None:
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
