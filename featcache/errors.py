"""Every error featcache raises on purpose: each is also a builtin and carries its exit code.

A message says what happened, where, what was expected and found, what is kept, and what to run.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Iterable

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where a file has no room."""


class FeatcacheError(Exception):
    """The parent of all errors that featcache raises on purpose."""

    exit_code = 1


class UsageError(FeatcacheError, ValueError):
    """An argument is unknown, out of range or contradicts another."""

    exit_code = 2


class UnknownNameError(UsageError, LookupError):
    """A name is not in its list; the message holds the nearest three and how to list all."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, listing: str) -> None:
        hint = did_you_mean(name, known, show=repr)
        super().__init__(f"Unknown {kind} {name!r}.{hint} List all with: {listing}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the finished message, not its arguments."""
        return UnknownNameError.__new__, (type(self), *self.args), self.__dict__


class UnknownSplitError(UnknownNameError, KeyError):
    """A cache has no split of this name."""

    def __str__(self) -> str:
        """Give the message as it is; a KeyError would show its repr."""
        return str(self.args[0])


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

    Not a FeatcacheError, so that a loop which catches those does not swallow Ctrl-C.
    """

    exit_code = 130


def clipped(text: str, most: int = 200) -> str:
    """Cut what a stranger's file says to a length that a message can hold."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def counted(n: int, noun: str) -> str:
    """Write a count before its noun, which is in the plural but for 1: "1 class", "0 images"."""
    if n == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "tch", "sh")):
        return f"{n} {noun}es"
    return f"{n} {noun.removesuffix('y')}ies" if noun.endswith("ty") else f"{n} {noun}s"


def did_you_mean(
    name: str, known: Iterable[str], *, most: int = 3, show: Callable[[str], str] = str
) -> str:
    """Write a hint with the known names nearest to `name`; empty if none is near.

    Args:
        name: What was given; its case does not matter.
        known: What is there.
        most: How many of them to show, the nearest first.
        show: How to write each: `repr` puts it in quotes.
    """
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=most, cutoff=0.5)
    return f" Did you mean {', '.join(show(by_lower[c]) for c in close)}?" if close else ""
