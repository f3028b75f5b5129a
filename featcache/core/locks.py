"""Locks: one process at a time writes a cache or a run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from featcache.core.files import make_folder
from featcache.core.side_files import lock_path
from featcache.errors import DISK_FULL, DiskFullError, LockedError, StorageError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(path: Path, *, remove: bool = False) -> Iterator[None]:
    """Hold the lock of the cache or run at `path`; the system frees it if this process dies.

    The lock is the file `<name>.lock`. A cache's stays behind, empty of meaning, until
    `remove_cache` takes it along.

    Args:
        path: What is written.
        remove: Whether the file goes at the end; after an error it stays.

    Raises:
        LockedError: If another process holds it, with its host and process number.
        StorageError: If the folder cannot be written, or its file system has no locks;
            DiskFullError if it has no room.
    """
    file = lock_path(path)
    # Where there is no flock it would keep its own state in this file, which holds our text.
    lock = filelock.FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        make_folder(path.parent)
        lock.acquire()
    except filelock.Timeout as err:
        raise LockedError(
            f"{path.name} is being written by {_holder(file)}. Nothing was changed. Wait "
            f"until it is done, or stop it; the same command then goes on from there."
        ) from err
    except NotImplementedError as err:  # filelock's word for a flock that says ENOSYS
        raise _no_locks(path) from err
    except OSError as err:
        if err.errno in _NO_LOCKS:
            raise _no_locks(path) from err
        kind = DiskFullError if err.errno in DISK_FULL else StorageError
        raise kind(
            f"Cannot write in {path.parent}: {err.strerror} (errno {err.errno}). Nothing was "
            f"changed. Choose a folder you may write to."
        ) from err
    try:
        # Only for the other's error text: a disk that is full must not stop a resume, whose space
        # is reserved.
        with contextlib.suppress(OSError):
            holder = {"host": socket.gethostname(), "pid": os.getpid()}
            file.write_text(json.dumps(holder) + "\n")
        yield
        if remove:
            # While it is held: once it is free, it may be another's. Whoever waits for it meanwhile
            # gets a lock whose file is gone; filelock notices that, and makes a new one.
            file.unlink(missing_ok=True)
    finally:
        lock.release()


def _no_locks(path: Path) -> StorageError:
    return StorageError(
        f"The file system of {path.parent} has no file locks, so two runs could write one cache. "
        f"Nothing was changed. Choose a --cache-dir or --runs-dir on a local disk, and copy the "
        f"files there when they are done."
    )


def _holder(file: Path) -> str:
    try:
        holder = json.loads(file.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
