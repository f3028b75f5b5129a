"""Image files by their paths, wherever they lie: a bad one is a row with a reason, no error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.core.paths import portable
from featcache.errors import DatasetError, UsageError, counted
from featcache.images.decode import reason_of
from featcache.images.image_files import FolderImages
from featcache.images.image_names import bytewise
from featcache.images.rules import ImageRules
from featcache.images.splits import UNLABELLED, Split, UnreadableImageError
from featcache.images.tree import FolderTree

PORTION = 4096
"""Paths that are read in one go: so few that their memory is nothing, so many that the start of
decoding processes is none."""

ImagePath = str | os.PathLike[str]


@dataclass(frozen=True)
class PathImages(FolderImages):
    """Image files, each by a path of its own; `root` has no part in it."""

    def path_of(self, row: int) -> str:
        """Give the path as it was given."""
        return self.paths[row]

    @contextlib.contextmanager
    def failures_told(self, row: int) -> Iterator[None]:
        """Make any failure to read a file the reason of its row."""
        try:
            yield
        except OSError as err:
            raise UnreadableImageError(reason_of(err)) from err
        except ValueError as err:  # a zero byte
            raise UnreadableImageError(f"no path: {err}") from err


def split_of(paths: Sequence[str], rules: ImageRules) -> Split:
    """Make a split of image files that may not be there."""
    images = PathImages(rules=rules, root="", paths=tuple(paths))
    return Split(UNLABELLED, images, None, tuple(map(portable, paths)))


def expanded_images(given: Sequence[ImagePath], notes: list[str]) -> list[str]:
    """List what paths of files and folders stand for, in their order; no image is opened.

    A folder stands for all images below it, sorted by the bytes of their paths. A path that is not
    there stays: it becomes a row with a reason.

    Args:
        given: The paths.
        notes: Takes what a user should be told, e.g. skipped files.

    Raises:
        DatasetError: If none of them is there, or all are folders without an image.
        UsageError: If there is none.
    """
    if not given:
        raise UsageError("No image was given. Name images, a folder, or - for paths on stdin.")
    paths: list[str] = []
    for one in (os.fspath(path) for path in given):
        paths += _below(one, notes) if os.path.isdir(one) else [one]  # noqa: PTH112 - any text
    if any(map(os.path.lexists, paths)):
        return paths
    said = f"{'; '.join(notes)}."
    if paths:  # none of them is there
        others = f", and neither do the {len(paths) - 1} others" if paths[1:] else ""
        said = f"{paths[0]} does not exist{others}."
    raise DatasetError(f"{said} Nothing was started. Give images, or a folder with images in it.")


def portions(images: Iterable[ImagePath | Sequence[str]]) -> Iterator[Sequence[str]]:
    """Cut paths into portions; those that come as a list are one, and no others are waited for."""
    portion: list[str] = []
    for one in images:
        if isinstance(one, str | os.PathLike):
            portion.append(os.fspath(one))
        if portion and (len(portion) == PORTION or not isinstance(one, str | os.PathLike)):
            yield portion
            portion = []
        if not isinstance(one, str | os.PathLike) and one:
            yield one
    if portion:
        yield portion


def _below(folder: str, notes: list[str]) -> list[str]:
    """List the images below a folder, as paths that begin as it was given."""
    found = FolderTree(Path(folder)).walk(".")
    below = (path for paths in found.images.values() for path in paths)
    if found.others:
        n = counted(len(found.others), "file")
        notes.append(f"{folder}: {n} passed over, whose names are not those of images")
    if found.repeats:
        notes.append(f"{folder}: folders that were read already by another path were passed over")
    if not found.strays and not any(found.images.values()):
        notes.append(f"{folder} holds no image")
    start = folder if folder.endswith("/") else f"{folder}/"
    return [f"{start}{path}" for path in sorted((*found.strays, *below), key=bytewise)]
