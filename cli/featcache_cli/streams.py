"""stdin, stdout and stderr as they are handed to a command: closed, full, or not UTF-8."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from featcache.errors import DISK_FULL, DiskFullError, StorageError

_is_answer_gone = False


def prepare_streams() -> None:
    """Give a closed stream a place, and let one that is not UTF-8 show what it cannot encode."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    # Python has none for a stream that was closed when it started.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115 - until the process ends
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Python keeps its own object, and so the buffer that both write through, in `__stdout__`.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = _Answer(
            sys.stdout.buffer,
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=sys.stdout.line_buffering,
            write_through=sys.stdout.write_through,
        )


class _Answer(io.TextIOWrapper):
    """stdout whose failures have a name, whoever writes to it: help and versions too."""

    def write(self, text: str, /) -> int:
        if text == "":  # so Typer asks whether it takes text, and forgets what is wrong with it
            return 0
        with _answering():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with _answering():
            super().flush()


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Name the failure of a write to stdout inside; a reader who went away is none.

    Raises:
        DiskFullError: If there is no room for the answer.
        StorageError: If it cannot be written for another reason.
    """
    try:
        yield
    except BrokenPipeError:
        _give_up(sys.stdout)
    except OSError as err:
        raise _no_answer(err) from err


def _no_answer(err: OSError) -> StorageError:
    """Say that stdout does not take what a command answers, and let the rest of it go."""
    _give_up(sys.stdout)
    kind = DiskFullError if err.errno in DISK_FULL else StorageError
    return kind(
        f"The answer cannot be written to stdout: {err.strerror} (errno {err.errno}). What the "
        f"command did is kept. Make room, and run it again for its answer."
    )


def flush_answer() -> None:
    """Write what is left of an answer, which Python would do with exit code 120 if it fails.

    Raises:
        StorageError: If it cannot be written.
    """
    try:
        sys.stdout.flush()
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            _give_up(sys.stderr)


def is_answer_gone() -> bool:
    """Tell whether whoever read stdout went away, so that more answers are for nobody."""
    return _is_answer_gone


def _give_up(stream: TextIO) -> None:
    """Let what waits to be written go nowhere: Python tries again when it ends, with code 120."""
    global _is_answer_gone
    _is_answer_gone = _is_answer_gone or stream is sys.stdout
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
