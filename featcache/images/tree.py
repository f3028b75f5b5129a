"""What lies in an image folder, on a disk or in an archive: images by class, and the rest."""

from __future__ import annotations

import os
import shlex
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from featcache.core.dataset_names import FOLDER
from featcache.errors import DatasetError
from featcache.images.image_names import bytewise, is_image_name, is_litter


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

    def add(self, path: str, class_name: str | None) -> None:
        """Sort in one file, which lies below the folder of a class or of none."""
        if not is_image_name(path):
            self.others.append(path)
        elif class_name is None:
            self.strays.append(path)
        else:
            self.images.setdefault(class_name, []).append(path)


class Tree(ABC):
    """Folders and files below one root."""

    @abstractmethod
    def place(self, folder: str = ".") -> str:
        """Write where a folder of it lies, for messages."""

    @abstractmethod
    def way_to(self, folder: str) -> str:
        """Say how to take one folder of it alone."""

    @abstractmethod
    def top_folders(self) -> list[str]:
        """List the folders at the root, sorted by the bytes of their names."""

    @abstractmethod
    def n_top_images(self) -> int:
        """Count the images at the root."""

    @abstractmethod
    def walk(self, split_folder: str) -> FoundFiles:
        """Collect the files below one folder at the root, or below the root (".")."""


@dataclass(frozen=True)
class FolderTree(Tree):
    """A folder on the disk.

    Attributes:
        root: Its path, absolute.
    """

    root: Path

    def place(self, folder: str = ".") -> str:
        """Write where a folder of it lies, for messages."""
        return repr(str(self.root / folder))

    def way_to(self, folder: str) -> str:
        """Say how to take one folder of it alone."""
        return f"Take --dataset {shlex.quote(f'{FOLDER}{self.root / folder}')}"

    def top_folders(self) -> list[str]:
        """List the folders at the root, sorted by the bytes of their names."""
        return [entry.name for entry in entries(self.root) if is_folder(entry)]

    def n_top_images(self) -> int:
        """Count the images at the root."""
        return sum(is_image_name(entry.name) for entry in entries(self.root))

    def walk(self, split_folder: str) -> FoundFiles:
        """Collect the files below one folder; a real folder comes before a link that leads to it.

        Raises:
            DatasetError: If a folder cannot be listed.
        """
        found = FoundFiles()
        seen: set[tuple[int, int]] = set()
        folders: deque[tuple[str, str | None]] = deque([(split_folder, None)])
        links: deque[tuple[str, str | None]] = deque()
        while folders or links:
            folder, class_name = (folders or links).popleft()
            if (identity := _identity(self.root / folder)) in seen:
                found.repeats.append(folder)
                continue
            seen.add(identity)
            for entry in entries(self.root / folder):
                path = entry.name if folder == "." else f"{folder}/{entry.name}"
                if is_folder(entry):
                    top = class_name if class_name is not None else entry.name
                    found.images.setdefault(top, [])
                    (links if entry.is_symlink() else folders).append((path, top))
                else:
                    found.add(path, class_name)
        return found


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder's visible entries, sorted by the bytes of their names.

    Raises:
        DatasetError: If it cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            visible = [e for e in found if not is_litter(e.name)]
    except OSError as err:
        raise _unreadable(folder, err) from err
    return sorted(visible, key=lambda e: bytewise(e.name))


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
        f"Cannot list folder {str(folder)!r}: {err.strerror}. Nothing was started. "
        "Make it readable, or move it away."
    )
