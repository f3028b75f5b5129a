"""Threads and processes that the system refuses to start: the error names the limit."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from featcache.errors import DeviceError, FeatcacheError

_NO_MORE_PROCESSES = (errno.EAGAIN, errno.ENOMEM)
_WORDINGS = ("can't start new thread", "Resource temporarily unavailable")
ANY_START = ("A thread or process", "What was done is kept.")
"""For public verbs, which name by it what the packages below them cannot start."""


@contextlib.contextmanager
def starting(what: str, kept: str, way_out: str = "") -> Iterator[None]:
    """Name the failure to start a thread or a process inside; other errors pass.

    Args:
        what: What is started, as in "A process that decodes images".
        kept: What is kept, as a sentence.
        way_out: What needs no thread or process, as a sentence.

    Raises:
        DeviceError: If the system starts no more of them.
    """
    try:
        yield
    except (RuntimeError, OSError) as err:
        if not is_refused_start(err):
            raise
        raise start_refused(what, err, kept=kept, way_out=way_out) from err


def is_refused_start(err: BaseException) -> bool:
    """Tell whether `err` says that no more threads or processes can be started."""
    if isinstance(err, FeatcacheError):
        return False
    if isinstance(err, OSError):
        return err.errno in _NO_MORE_PROCESSES and err.filename is None
    # Neither Python nor C++ (std::system_error, by way of torch) has an error of its own for it.
    return isinstance(err, RuntimeError) and any(wording in str(err) for wording in _WORDINGS)


def start_refused(what: str, err: BaseException, *, kept: str, way_out: str = "") -> DeviceError:
    """Say that a thread or process could not be started."""
    return DeviceError(
        f"{what} cannot be started: {err}. A limit of processes and threads is reached (ulimit -u, "
        f"or pids.max of a container), or memory is short. {kept} {way_out}{' ' * bool(way_out)}"
        f"Raise the limit or end others, and run the same command again."
    )
