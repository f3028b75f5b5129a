"""Whether a folder can hold caches and runs: a small file is written there, locked and synced."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from featcache.core.files import (
    human_bytes,
    is_there,
    preallocate,
    sync_bytes,
    sync_folder,
    write_at,
)
from featcache.core.paths import resolved
from featcache.machine.finding import OK, PROBLEM, WARNING, Finding

_NBYTES = 1 << 16
_LEAST_FREE = 1_000_000_000
# A second process must be refused: between two files of one process NFS knows no lock.
_TRY_LOCK = (
    "import fcntl, sys\n"
    "try: fcntl.flock(open(sys.argv[1], 'rb+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "except BlockingIOError: print('refused')\n"
)


def look(subject: str, option: str, folder: Path) -> Iterator[Finding]:
    """Try a folder, or the one that it would be made in; nothing stays there.

    Args:
        subject: What it is called.
        option: Which option names another.
        folder: The folder.
    """
    there = next(path for path in (folder, *resolved(folder).parents) if is_there(path))
    missing = "" if there == folder else f"; {folder} is not there yet"
    other = f"name another folder with {option}."
    if not there.is_dir():
        yield Finding(subject, PROBLEM, f"{there} is no folder", f"Remove it, or {other}")
        return
    free = shutil.disk_usage(there).free
    try:
        problem, synced_s = _tried(there)
    except OSError as err:
        said = f"{there} cannot be written: {err.strerror or err}, {human_bytes(free)} free"
        yield Finding(subject, PROBLEM, f"{said}{missing}", f"Mend that, or {other}")
        return
    if problem:
        way_out = f"{other.capitalize()} Take one on a local disk; copy files when they are done."
        yield Finding(subject, PROBLEM, f"the file system of {there} {problem}", way_out)
        return
    said = f"{there} locks, syncs ({1000 * synced_s:.0f} ms) and has {human_bytes(free)} free"
    if free < _LEAST_FREE:
        way_out = (
            f"Make room, or {other} A cache takes 4 bytes for each feature of each image, and "
            f"half with --store-dtype float16."
        )
        yield Finding(subject, WARNING, f"{said}{missing}", way_out)
        return
    yield Finding(subject, OK, f"{said}{missing}")


def _tried(folder: Path) -> tuple[str, float]:
    """Do with a small file what is done with a cache.

    Returns:
        What the file system does not do, empty if it does all; and the seconds that syncing took.

    Raises:
        OSError: If it cannot be written.
    """
    fd, name = tempfile.mkstemp(prefix=".featcache-doctor-", dir=folder)
    path, final = Path(name), Path(f"{name}.h5")
    try:
        preallocate(fd, _NBYTES)
        write_at(fd, b"\x5a" * _NBYTES, 0)
        started = time.perf_counter()
        sync_bytes(fd)
        path.rename(final)
        sync_folder(folder)
        synced_s = time.perf_counter() - started
        return _lock_problem(fd, final) or _mapping_problem(fd), synced_s
    finally:
        os.close(fd)
        for one in (path, final):
            one.unlink(missing_ok=True)


def _lock_problem(fd: int, path: Path) -> str:
    """Lock a file, and let another process try to."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        return f"has no locks ({err.strerror}), so two runs could write one cache"
    asked = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path)],
        capture_output=True,
        check=False,
    )
    if asked.stdout.strip() == b"refused":
        return ""
    if asked.returncode:
        return "has locks, but a second process cannot ask for one"
    return "gives a lock to two processes at once, so two runs could write one cache"


def _mapping_problem(fd: int) -> str:
    """Read a file as features are read."""
    try:
        with mmap.mmap(fd, _NBYTES, prot=mmap.PROT_READ) as mapped:
            return "" if mapped[-1:] == b"\x5a" else "gives back other bytes than were written"
    except OSError as err:
        return f"maps no files ({err.strerror}), so features cannot be read by h5py or NumPy"
