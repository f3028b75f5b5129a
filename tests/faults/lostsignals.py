"""Was a signal lost, or did it come when all was done? Signals sent where Python loses them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults.sessions import forked, of_session, wait

_LATE_S = 0.25  # between the clock's reading and the signal, on a busy machine


class Stopped(NamedTuple):
    """How a process ended that was sent a signal.

    Attributes:
        code: Its exit code.
        was_lost: Whether it went on as if there had been no signal: its work ended well, and the
            signal had come before that.
    """

    code: int
    was_lost: bool


def timed(run: Callable[[], None], folder: Path) -> None:
    """Run work, and note when it was done; a process that a signal ends notes nothing."""
    try:
        run()
    finally:
        _ended(folder).write_text(repr(time.monotonic()))


def judged(code: int, folder: Path, *, sent_s: float) -> Stopped:
    """Tell a signal that was lost from one that came when all was done.

    Args:
        code: The exit code.
        folder: As for `timed`.
        sent_s: When it was sent, by the monotonic clock, which all processes share.
    """
    ended_s = float(_ended(folder).read_text()) if _ended(folder).exists() else None
    # Exit 3 is a run that was done, with images that could not be read.
    return Stopped(code, code in (0, 3) and ended_s is not None and sent_s < ended_s - _LATE_S)


def stopped_in_fork(run: Callable[[Path], None], folder: Path) -> Stopped:
    """Send SIGTERM in a hook of the first fork, where Python ignores what a handler raises."""
    sent = folder.with_name(folder.name + ".sent")

    def press() -> None:
        if not sent.exists():
            sent.write_text(repr(time.monotonic()))
            os.kill(os.getpid(), signal.SIGTERM)

    def watched() -> None:
        os.register_at_fork(before=press)
        timed(lambda: run(folder), folder)

    pid = forked(watched)
    code = wait(pid, within_s=60)
    assert sent.exists(), "no process was forked"
    assert not of_session(pid), "processes were left behind"
    return judged(code, folder, sent_s=float(sent.read_text()))


def code_under_strace(arguments: Sequence[str]) -> int | None:
    """Send SIGTERM with the first clone of `featcache ARGUMENTS`; None where there is no strace."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    inject = ["-e", "trace=clone", "-e", "inject=clone:signal=SIGTERM:when=1"]
    command = [
        strace,
        "-f",
        "-qq",
        "-o",
        os.devnull,
        *inject,
        sys.executable,
        "-m",
        "featcache_cli",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, check=False, timeout=120)
    return done.returncode


def _ended(folder: Path) -> Path:
    return folder.with_name(folder.name + ".ended")
