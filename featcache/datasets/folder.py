"""Image folders: train/ and test/ with a subfolder per class, or class subfolders alone."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featcache.datasets.image_files import FolderImages, bytewise, is_image_name
from featcache.datasets.splits import Dataset, Split
from featcache.errors import DatasetError

_SPLIT_OF = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
# Folders that are meant as splits but not called so: read as classes they would be nonsense.
_SPLIT_LIKE = {*_SPLIT_OF, "training", "testing", "eval"}
_LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}
_LAYOUT = (
    "Expected PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (PATH/val/ is optional), "
    "or PATH/CLASS/*.jpg for one split"
)


@dataclass
class _Found:
    """What lies below one split's folder; all paths are relative to the dataset's root.

    Attributes:
        images: Image paths by class, classes without an image included.
        strays: Images outside any class folder.
        others: Files without an image extension.
        repeats: Links to folders that are read already, loops among them.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    repeats: list[str] = field(default_factory=list)


def load_folder(path: str | Path, *, name: str, slug: str) -> Dataset:
    """Read an image folder without opening an image.

    A row is a file with an image extension, however broken; rows are sorted by the bytes of their
    paths, and so are the classes, which are the folders in train/. An id is the path below `path`.
    Links are followed, each folder is read once, and hidden files are passed over.

    Raises:
        DatasetError: If the folder is missing, unreadable, not laid out as expected or without
            images, or if another split has a class that train lacks.
    """
    root = Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100,PTH111 (keeps links)
    found = {split: _walk(root, folder) for split, folder in _split_folders(root).items()}
    class_names = tuple(sorted((c for c, p in found["train"].images.items() if p), key=bytewise))
    if not class_names:
        raise DatasetError(f"No class folder in {str(root)!r} holds an image. {_LAYOUT}.")
    _check_classes(root, class_names, found)
    splits = {
        split: _split(root, split, class_names, walk.images)
        for split, walk in found.items()
        if any(walk.images.values())
    }
    return Dataset(name, slug, class_names, splits, _notes(found))


def _split_folders(root: Path) -> dict[str, str]:
    """Map split names to their folders below `root`; a flat layout is one "train" at ".".

    A folder called "train" that holds no folders is a class beside others (the vehicle).
    """
    if not os.path.isdir(root):  # noqa: PTH112 (Path.is_dir raises on a forbidden parent)
        what = "is a file" if os.path.lexists(root) else "does not exist"
        raise DatasetError(f"Dataset folder {str(root)!r} {what}. {_LAYOUT}.")
    top = [entry.name for entry in _entries(root) if _is_folder(entry)]
    if "train" in top and any(_is_folder(entry) for entry in _entries(root / "train")):
        folders: dict[str, str] = {}
        for folder in (folder for folder in _SPLIT_OF if folder in top):
            if other := folders.get(_SPLIT_OF[folder]):
                raise DatasetError(
                    f"{str(root)!r} has both {other}/ and {folder}/, which mean the same split. "
                    "Move one of them away."
                )
            folders[_SPLIT_OF[folder]] = folder
        return folders
    if not top:
        n_images = sum(is_image_name(entry.name) for entry in _entries(root))
        what = f"{n_images} images but no class folders" if n_images else "no class folders"
        raise DatasetError(f"Folder {str(root)!r} holds {what}. {_LAYOUT}.")
    if all(folder.lower() in _SPLIT_LIKE for folder in top):
        raise DatasetError(
            f"Folder {str(root)!r} holds {_listed(top)}, but no train/ with a folder per class. "
            f"{_LAYOUT}."
        )
    return {"train": "."}


def _walk(root: Path, split_folder: str) -> _Found:
    """Collect the files below one split; a real folder comes before a link that leads to it."""
    found = _Found()
    seen: set[tuple[int, int]] = set()
    folders: deque[tuple[str, str | None]] = deque([(split_folder, None)])
    links: deque[tuple[str, str | None]] = deque()
    while folders or links:
        folder, class_name = (folders or links).popleft()
        if (identity := _identity(root / folder)) in seen:
            found.repeats.append(folder)
            continue
        seen.add(identity)
        for entry in _entries(root / folder):
            path = entry.name if folder == "." else f"{folder}/{entry.name}"
            if _is_folder(entry):
                top = class_name if class_name is not None else entry.name
                found.images.setdefault(top, [])
                (links if entry.is_symlink() else folders).append((path, top))
            elif not is_image_name(entry.name):
                found.others.append(path)
            elif class_name is None:
                found.strays.append(path)
            else:
                found.images[class_name].append(path)
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder's visible entries, sorted by the bytes of their names."""
    try:
        with os.scandir(folder) as entries:
            visible = [e for e in entries if not e.name.startswith(".")]
    except OSError as err:
        raise _unreadable(folder, err) from err
    return sorted(
        (e for e in visible if e.name.lower() not in _LITTER), key=lambda e: bytewise(e.name)
    )


def _identity(folder: Path) -> tuple[int, int]:
    """Tell one folder from another whatever links lead to it."""
    try:
        status = folder.stat()
    except OSError as err:
        raise _unreadable(folder, err) from err
    return status.st_dev, status.st_ino


def _unreadable(folder: Path, err: OSError) -> DatasetError:
    return DatasetError(
        f"Cannot list folder {str(folder)!r}: {err.strerror}. Nothing was extracted. "
        "Make it readable, or move it out of the dataset."
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _check_classes(root: Path, class_names: Sequence[str], found: Mapping[str, _Found]) -> None:
    """Refuse a split with images of a class that has none in train."""
    for split, walk in found.items():
        if unknown := sorted({c for c, p in walk.images.items() if p} - set(class_names)):
            raise DatasetError(
                f"Split {split!r} of {str(root)!r} has images of {_listed(unknown)}, but train has "
                f"none; train's classes are {_listed(class_names)}. "
                "Rename those folders to a class of train, or move them away."
            )


def _split(
    root: Path, name: str, class_names: Sequence[str], images: Mapping[str, Sequence[str]]
) -> Split:
    rows = [(path, k) for k, c in enumerate(class_names) for path in images.get(c, ())]
    rows.sort(key=lambda row: bytewise(row[0]))
    paths = tuple(path for path, _ in rows)
    labels = np.fromiter((k for _, k in rows), dtype=np.int64, count=len(rows))
    return Split(name, FolderImages(str(root), paths), labels, paths)


def _notes(found: Mapping[str, _Found]) -> tuple[str, ...]:
    """Say what was left out, as sentences with one example each."""
    empty = [c for c, paths in found["train"].images.items() if not paths]
    bare = [split for split, walk in found.items() if not any(walk.images.values())]
    strays = [path for walk in found.values() for path in walk.strays]
    others = [path for walk in found.values() for path in walk.others]
    repeats = [path for walk in found.values() for path in walk.repeats]
    notes = []
    if empty:
        notes.append(f"Classes without an image in train left out: {_listed(empty)}.")
    if bare:
        notes.append(f"Splits without an image in a class folder left out: {_listed(bare)}.")
    if strays:
        notes.append(f"Images outside a class folder left out: {_counted(strays)}.")
    if others:
        notes.append(f"Files without an image extension left out: {_counted(others)}.")
    if repeats:
        notes.append(f"Links to folders read already left out: {_counted(repeats)}.")
    return tuple(notes)


def _counted(paths: Sequence[str]) -> str:
    # repr, because a name may hold a newline or bytes that no terminal can show
    return f"{len(paths)}, e.g. {paths[0]!r}"


def _listed(names: Sequence[str], *, at_most: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:at_most])
    n_more = len(names) - at_most
    return f"{shown} and {n_more} more" if n_more > 0 else shown
