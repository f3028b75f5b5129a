"""Where compiled code lies: in a folder that no other user can write to, or swap for his own.

Whoever puts a library where it is looked for has code run as the user who loads it. torch's own
choice, `torchinductor_USER` in the folder for temporary files, can be prepared by anybody.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path

from featcache.core.paths import user_cache_folder
from featcache.errors import UnsafeFileError

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def code_folder() -> Path:
    """Make, or find, the folder for compiled code.

    Returns:
        `featcache/compiled` in XDG_CACHE_HOME or `~/.cache`, which is kept; where that cannot be
        had or is not the user's alone, a new one of a random name, which goes with the process.

    Raises:
        UnsafeFileError: If the folder for temporary files is not safe either.
        OSError: If nothing can be made there.
    """
    caches = user_cache_folder()
    if caches is not None:
        with contextlib.suppress(UnsafeFileError, OSError):
            return private_folder(caches / "compiled", name="the folder for compiled code")
    return private_folder(_random_folder(os.getpid()), name="the folder for temporary files")


def private_folder(folder: Path, *, name: str) -> Path:
    """Require that a folder, made here if there is none, is the user's own and closed to others.

    Args:
        folder: The folder.
        name: Names it in the message.

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
            f"user {found.st_uid}'s with mode {stat.S_IMODE(found.st_mode):04o}: code that another "
            f"user puts there would run as you."
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


@functools.cache
def _random_folder(pid: int) -> Path:
    """One for each process: a forked one must not remove its parent's."""
    folder = tempfile.mkdtemp(prefix="featcache-")
    atexit.register(_remove, folder, pid)
    return Path(folder)


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
