"""The limits that a container or a job scheduler sets: memory and cores of Linux's control groups.

Both versions: https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html there.
A process is bound by the limits of its own group and of all groups above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # a test has another


def memory_left() -> int | None:
    """Count the bytes that the groups of this process may still take; None without a limit.

    What they hold of files that can be read again counts as free, as in Linux's MemAvailable.
    """
    left = []
    for group in _groups("memory"):
        if (group / "memory.max").exists():
            limit, used = _number(group / "memory.max"), _number(group / "memory.current")
            of_files = _statistic(group / "memory.stat", "inactive_file")
        else:
            limit = _number(group / "memory.limit_in_bytes")
            used = _number(group / "memory.usage_in_bytes")
            of_files = _statistic(group / "memory.stat", "total_inactive_file")
        if limit is not None and used is not None:
            left.append(max(0, limit - max(0, used - of_files)))
    return min(left, default=None)


def cores() -> float | None:
    """Count the cores' worth of time that the groups of this process may use; None without a limit.

    It need not be whole: 1.5 is one and a half seconds of computing in each second.
    """
    shares = []
    for group in _groups("cpu"):
        quota, period = _quota(group)
        if quota is not None and period and quota > 0:
            shares.append(quota / period)
    return min(shares, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Find the folders of this process's group and of all above it, as far as they can be seen.

    A container often sees its own group as the top one, though it is named by its place outside.
    """
    mounts = ROOT / "sys/fs/cgroup"
    for line in _text(ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            is_unified = (mounts / "cgroup.controllers").exists()
            top = mounts if is_unified else mounts / "unified"
        elif controller in controllers.split(","):
            top = mounts / controllers if (mounts / controllers).is_dir() else mounts / controller
        else:
            continue
        group = top / path.lstrip("/")
        yield from (g for g in (group, *group.parents) if g.is_relative_to(top) and g.is_dir())


def _quota(group: Path) -> tuple[int | None, int | None]:
    """Read how many microseconds of each period may be used."""
    if (group / "cpu.max").exists():
        quota, period = (*_text(group / "cpu.max").split(), "", "")[:2]
        return _as_number(quota), _as_number(period)
    return _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")


def _number(file: Path) -> int | None:
    return _as_number(_text(file))


def _as_number(text: str) -> int | None:
    """Read a number; "max", -1 and what is missing are no limit."""
    return int(text) if text.strip().isdecimal() else None


def _statistic(file: Path, name: str) -> int:
    for line in _text(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _as_number(value) or 0
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
