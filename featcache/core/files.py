"""The few system calls that a cache rests on, with their failures named."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.paths import resolved
from featcache.errors import DISK_FULL, CorruptError, DiskFullError, FeatcacheError, StorageError

sync_bytes = getattr(os, "fdatasync", os.fsync)
"""Wait until the file's bytes are on the disk (macOS has no fdatasync)."""


@contextlib.contextmanager
def named_failures(path: Path, *, kept: str | Callable[[], str]) -> Iterator[None]:
    """Turn an OSError inside into DiskFullError or StorageError, with `path` and what is kept.

    Args:
        path: What is written.
        kept: A sentence, or what makes it once there is a failure.
    """
    try:
        yield
    except FeatcacheError:
        raise
    except OSError as err:
        reason = f"{err.strerror or err} (errno {err.errno})"
        kept = kept if isinstance(kept, str) else kept()
        if err.errno in DISK_FULL:
            raise DiskFullError(
                f"No space left while writing {path}: {reason}. {kept} Make room and run the same "
                f"command again."
            ) from err
        raise StorageError(
            f"Cannot write {path}: {reason}. {kept} Mend the cause and run the same command again."
        ) from err


@contextlib.contextmanager
def named_read_failures(path: Path) -> Iterator[None]:
    """Turn an OSError inside into StorageError, and an early end of the file into CorruptError."""
    try:
        yield
    except FeatcacheError:
        raise
    except EOFError as err:
        raise CorruptError(f"{path} became shorter while it was read: {err}.") from err
    except OSError as err:
        raise StorageError(f"Cannot read {path}: {err.strerror} (errno {err.errno}).") from err


def is_there(path: Path) -> bool:
    """Tell whether something can be reached at a path that may be any text."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where it may not look


def require_space(folder: Path, *, nbytes: int) -> None:
    """Check that `nbytes` can be written to `folder`, which need not exist yet.

    Raises:
        DiskFullError: With what is needed, free and missing.
    """
    existing = next(p for p in [folder, *resolved(folder).parents] if p.exists())
    free = shutil.disk_usage(existing).free
    missing = nbytes - free
    if missing > 0:
        raise DiskFullError(
            f"The cache needs {human_bytes(nbytes)} in {folder}, but {human_bytes(free)} are free "
            f"there: {human_bytes(missing)} are missing. Nothing was written. Make room, choose "
            f"another --cache-dir, or use --store-dtype float16 for half the size."
        )


def require_file_size(nbytes: int) -> None:
    """Check that this process may write a file of `nbytes`.

    Raises:
        OSError: EFBIG, if its limit (`ulimit -f`) is lower.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and nbytes > limit:
        raise OSError(errno.EFBIG, f"{os.strerror(errno.EFBIG)}, the limit is {limit} bytes")


def preallocate(fd: int, nbytes: int) -> None:
    """Reserve the whole file on the disk, so that no later write can run out of space."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, nbytes)
    else:  # macOS
        os.ftruncate(fd, nbytes)


def write_at(fd: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` at `offset`, however many calls the system needs for it."""
    view = memoryview(content).cast("B")
    while view:
        n_written = os.pwrite(fd, view, offset)
        view = view[n_written:]
        offset += n_written


def read_at(fd: int, nbytes: int, offset: int) -> bytes:
    """Read exactly `nbytes` at `offset`.

    Raises:
        EOFError: If the file ends before.
    """
    parts = []
    while nbytes > 0:
        part = os.pread(fd, nbytes, offset)
        if not part:
            raise EOFError(f"the file ends at byte {offset}")
        parts.append(part)
        nbytes -= len(part)
        offset += len(part)
    return b"".join(parts)


def read_into(fd: int, out: npt.NDArray[Any], offset: int) -> None:
    """Fill a contiguous array with the bytes at `offset`.

    Raises:
        EOFError: If the file ends before.
    """
    left = out.reshape(-1).view(np.uint8).data
    while left:
        n_read = os.preadv(fd, [left], offset)
        if not n_read:
            raise EOFError(f"the file ends at byte {offset}")
        left = left[n_read:]
        offset += n_read


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing, and wait until they are on the disk.

    A file that is synced in a folder that is not would be lost with it when the power fails.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the folder's entries, a rename among them, are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def human_bytes(nbytes: int) -> str:
    """Write a number of bytes for people: "184.3 MB", "6.02 GB", "2.10 TB"."""
    if nbytes < 1_000_000:
        return f"{nbytes / 1e3:.1f} kB"
    if nbytes < 1_000_000_000:
        return f"{nbytes / 1e6:.1f} MB"
    if nbytes < 1_000_000_000_000:
        return f"{nbytes / 1e9:.2f} GB"
    return f"{nbytes / 1e12:.2f} TB"
