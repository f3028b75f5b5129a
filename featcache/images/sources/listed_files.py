"""The files that a list or a table names, each looked up before anything is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from featcache.core.paths import native
from featcache.errors import DatasetError, clipped
from featcache.images.image_files import FolderImages


def listed_files(
    files: Sequence[str], folder: str, *, refusal: Callable[[int, str], DatasetError]
) -> FolderImages:
    """Take the files that are named, relative to a folder, and see that each is there.

    Args:
        files: N paths, as UTF-8.
        folder: Absolute path of the folder.
        refusal: Makes the error for a row.

    Raises:
        DatasetError: For the first path that is empty, a URL, or none of a file.
    """
    paths = [native(file) for file in files]
    root = folder
    if any(map(os.path.isabs, paths)):
        paths = [os.path.join(folder, path).lstrip("/") for path in paths]  # noqa: PTH118
        root = ""
    for row, path in enumerate(paths):
        if why := _fault(files[row], f"{root}/{path}"):
            raise refusal(row, f"{clipped(repr(files[row]))} {why}.")
    return FolderImages(root, tuple(paths))


def _fault(said: str, path: str) -> str:
    """Say why a path is none of an image file; a file that cannot be opened becomes a row."""
    if not said:
        return "is empty; expected the path of an image"
    if "://" in said:
        return "is a URL; only files of this machine are read"
    try:
        status = os.stat(path)  # noqa: PTH116 - pathlib doubles the time of a long list
    except PermissionError:
        return ""
    except (OSError, ValueError) as err:
        why = getattr(err, "strerror", None) or str(err)
        return f"does not exist ({why})"
    return "" if stat.S_ISREG(status.st_mode) else "is no file"
