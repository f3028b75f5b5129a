"""Every error featcache raises on purpose: each is also a builtin and carries its exit code.

A message says what happened, where, what was expected and found, what is kept, and what to run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeatcacheError(Exception):
    """The parent of all errors that featcache raises on purpose."""

    exit_code = 1


class UsageError(FeatcacheError, ValueError):
    """An argument is unknown, out of range or contradicts another."""

    exit_code = 2


class UnknownNameError(UsageError, LookupError):
    """A name is not in its list; the message holds the nearest three and how to list all."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, listing: str) -> None:
        near = nearest(name, known)
        hint = f" Did you mean {', '.join(repr(n) for n in near)}?" if near else ""
        super().__init__(f"Unknown {kind} {name!r}.{hint} List all with: {listing}")

    def __reduce__(self) -> tuple[object, ...]:
        """Take the message along to another process, not what it was made of."""
        return UnknownNameError.__new__, (type(self), *self.args), self.__dict__


class DatasetError(FeatcacheError, FileNotFoundError):
    """A dataset's files are missing, empty or not laid out as they should be."""

    exit_code = 2


class WeightsError(FeatcacheError, ValueError):
    """Weights do not fit the backbone, hold NaN, or cannot be read."""

    exit_code = 2


class WeightsUnavailableError(WeightsError, ConnectionError):
    """Weights are neither on this machine nor reachable."""


class NonFiniteError(FeatcacheError, ArithmeticError):
    """A feature is NaN or infinite, or leaves the range of the storage type."""


class StorageError(FeatcacheError, OSError):
    """The file system refused a read or a write."""


class CacheMissingError(FeatcacheError, FileNotFoundError):
    """No cache at this place, or one that is not complete yet."""

    exit_code = 10


class LockedError(FeatcacheError, BlockingIOError):
    """Another process is writing this cache."""

    exit_code = 11


class MismatchError(FeatcacheError, ValueError):
    """A cache holds something else than what was asked for."""

    exit_code = 12


class CorruptError(FeatcacheError, ValueError):
    """A file is not a featcache file, or its bytes are damaged."""

    exit_code = 13


class DiskFullError(StorageError):
    """The disk cannot hold the cache."""

    exit_code = 14


class UnsafeFileError(FeatcacheError, ValueError):
    """A file is refused because reading it could run code or reach other files."""

    exit_code = 15


class DeviceError(FeatcacheError, RuntimeError):
    """The device is missing, out of memory, or failed."""

    exit_code = 16


class InterruptedRunError(KeyboardInterrupt):
    """The user stopped a run; what was acknowledged is kept.

    No FeatcacheError, since that is an Exception: a loop that goes on after those must stop here.
    """

    exit_code = 130


def clipped(text: str, most: int = 200) -> str:
    """Cut what a stranger's file says to a length that a message can hold."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def nearest(name: str, known: Iterable[str], *, n: int = 3) -> list[str]:
    """Find the `n` known names most like `name`, best first, ignoring case."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.5)
    return [by_lower[c] for c in close]
