"""Folders that no other user can write to, or swap for his own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from featcache.errors import UnsafeFileError

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def private_folder(folder: Path, *, name: str, danger: str) -> Path:
    """Require that a folder, made here if there is none, is the user's own and closed to others.

    Args:
        folder: The folder.
        name: Names it in the message.
        danger: What another user could do there; ends the message.

    Returns:
        Its true path: a link on the way may be changed later.

    Raises:
        UnsafeFileError: If it is another user's, has another mode than 0700, or lies where another
            user could put his own in its place.
        OSError: If it can be neither found nor made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder.resolve(strict=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise UnsafeFileError(
            f"{name}, {folder}, must be yours (user {os.geteuid()}) and have mode 0700, but it is "
            f"user {found.st_uid}'s with mode {stat.S_IMODE(found.st_mode):04o}: {danger}."
        )
    for parent in folder.parents:
        above = parent.stat()
        is_open = above.st_mode & _WRITABLE_BY_OTHERS and not above.st_mode & stat.S_ISVTX
        if is_open or above.st_uid not in (0, os.geteuid()):
            raise UnsafeFileError(
                f"{name}, {folder}, lies in {parent} (user {above.st_uid}, mode "
                f"{stat.S_IMODE(above.st_mode):04o}), where another user can put his own folder "
                f"in its place."
            )
    return folder
