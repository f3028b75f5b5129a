"""Walk an image folder: its images by class, and the files that are left out."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from featcache.errors import DatasetError
from featcache.images.image_files import bytewise, is_image_name

_LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}


@dataclass
class FoundFiles:
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

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes with an image, sorted by the bytes of their names."""
        return tuple(sorted((c for c, paths in self.images.items() if paths), key=bytewise))


def walk(root: Path, split_folder: str) -> FoundFiles:
    """Collect the files below one split; a real folder comes before a link that leads to it.

    Args:
        root: The dataset's folder.
        split_folder: A folder in it, or "." for all of it.

    Raises:
        DatasetError: If a folder cannot be listed.
    """
    found = FoundFiles()
    seen: set[tuple[int, int]] = set()
    folders: deque[tuple[str, str | None]] = deque([(split_folder, None)])
    links: deque[tuple[str, str | None]] = deque()
    while folders or links:
        folder, class_name = (folders or links).popleft()
        if (identity := _identity(root / folder)) in seen:
            found.repeats.append(folder)
            continue
        seen.add(identity)
        for entry in entries(root / folder):
            path = entry.name if folder == "." else f"{folder}/{entry.name}"
            if is_folder(entry):
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


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder's visible entries, sorted by the bytes of their names.

    Raises:
        DatasetError: If it cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            visible = [e for e in found if not e.name.startswith(".")]
    except OSError as err:
        raise _unreadable(folder, err) from err
    return sorted(
        (e for e in visible if e.name.lower() not in _LITTER), key=lambda e: bytewise(e.name)
    )


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


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
