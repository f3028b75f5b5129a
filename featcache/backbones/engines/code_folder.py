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
import tempfile
from pathlib import Path

from featcache.core.paths import user_cache_folder
from featcache.core.private_folder import private_folder
from featcache.errors import UnsafeFileError

DANGER = "code that another user puts there would run as you"


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
            return private_folder(
                caches / "compiled", name="the folder for compiled code", danger=DANGER
            )
    return private_folder(
        _random_folder(os.getpid()), name="the folder for temporary files", danger=DANGER
    )


@functools.cache
def _random_folder(pid: int) -> Path:
    """One for each process: a forked one must not remove its parent's."""
    folder = tempfile.mkdtemp(prefix="featcache-")
    atexit.register(_remove, folder, pid)
    return Path(folder)


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
