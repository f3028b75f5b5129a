"""A dataset of class folders, on a disk or in an archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from featcache.core.paths import portable
from featcache.errors import DatasetError, counted
from featcache.images.image_names import bytewise, is_heic_name
from featcache.images.layout import LAYOUT, Layout, listed, read_layout
from featcache.images.splits import Dataset, FileImages, Split
from featcache.images.tree import FoundFiles, Tree

ImagesAt = Callable[[tuple[str, ...]], FileImages]
"""Gives the images that lie at these paths below the root."""


def read_class_folders(name: str, *, slug: str, tree: Tree, images_at: ImagesAt) -> Dataset:
    """Read class folders without opening an image.

    A row is a file with an image extension, however broken. Rows are sorted by the bytes of their
    paths. So are the classes, which are the folders in train/. An id is the path below the root.

    Args:
        name: Of the dataset, as the user gave it.
        slug: The name as a folder name.
        tree: The folders.
        images_at: Gives the images.

    Raises:
        DatasetError: If the folders are unreadable, not laid out as expected or without images, or
            if another split has a class that train lacks.
    """
    layout = read_layout(tree)
    class_names = layout.splits["train"].class_names
    if not class_names:
        notes = "".join(f" {note}" for note in _notes(layout))
        raise DatasetError(f"No class folder in {tree.place()} holds an image.{notes} {LAYOUT}.")
    _check_classes(tree, class_names, layout.splits)
    splits = {
        split: _split(split, class_names, found.images, images_at)
        for split, found in layout.splits.items()
    }
    return Dataset(name, slug, tuple(map(portable, class_names)), splits, _notes(layout))


def _check_classes(tree: Tree, class_names: Sequence[str], found: Mapping[str, FoundFiles]) -> None:
    """Refuse a split with images of a class that has none in train."""
    for split, walk in found.items():
        if unknown := sorted({c for c, p in walk.images.items() if p} - set(class_names)):
            raise DatasetError(
                f"Split {split!r} of {tree.place()} has images of {listed(unknown)}, but train has "
                f"none; train's classes are {listed(class_names)}. "
                "Rename those folders to a class of train, or move them away."
            )


def _split(
    name: str, class_names: Sequence[str], images: Mapping[str, Sequence[str]], images_at: ImagesAt
) -> Split:
    rows = [(path, k) for k, c in enumerate(class_names) for path in images.get(c, ())]
    rows.sort(key=lambda row: bytewise(row[0]))
    paths = tuple(path for path, _ in rows)
    labels = np.fromiter((k for _, k in rows), dtype=np.int64, count=len(rows))
    return Split(name, images_at(paths), labels, tuple(map(portable, paths)))


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
    return (*notes, *left_out(others=others, repeats=repeats))


def left_out(*, others: Sequence[str], repeats: Sequence[str]) -> tuple[str, ...]:
    """Say which files and links are no rows, as sentences with one example each."""
    notes = []
    if heic := [path for path in others if is_heic_name(path)]:
        notes.append(f"{counted(len(heic), 'HEIC file')} left out: install featcache[heif].")
        others = [path for path in others if not is_heic_name(path)]
    if others:
        notes.append(f"Files without an image extension left out: {_counted(others)}.")
    if repeats:
        notes.append(f"Links to folders read already left out: {_counted(repeats)}.")
    return tuple(notes)


def _counted(paths: Sequence[str]) -> str:
    # repr, because a name may hold a newline or bytes that no terminal can show
    return f"{len(paths)}, e.g. {paths[0]!r}"
