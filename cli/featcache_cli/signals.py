"""Ctrl-C, SIGTERM and SIGHUP: each ends the command with its own exit code, none is lost.

The handler raises nowhere but in work that says so. Before the first write, and after the last, it
ends the process at once; in between it leaves a wish to stop (`featcache.core.stopping`). Each
signal also writes a byte into a pipe, even while the main thread is in one long call: a thread
reads it there, and ends the process where the main one does not answer.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from featcache.core import stopping

_REPEATED_WITHIN_S = 1.0  # `timeout` and `uv run` send a signal twice
_ENDS_WITHIN_S = 8.0
_has_taken_over = False
_first: int | None = None


def take_over() -> None:
    """Handle the signals that stop a command, but for those that the caller ignores (nohup)."""
    global _has_taken_over
    if _has_taken_over:
        return
    _has_taken_over = True
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _received)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_leave_to_parent)
    watch = threading.Thread(target=_watch, args=(reading,), name="featcache-signals", daemon=True)
    with contextlib.suppress(RuntimeError):  # a limit of processes: the handler does without
        watch.start()


def resume_command() -> str:
    """Write the command that was given, for a shell."""
    return shlex.join(["featcache", *sys.argv[1:]])


def _received(number: int, _: FrameType | None) -> None:
    """Meet the first signal; whatever follows is the thread's."""
    global _first
    if _first is None:
        _first = number
        if stopping.is_working():
            stopping.ask_to_stop(number)
        else:
            _end(number, "Stopped. Nothing is lost. Run the same command again")


def _watch(reading: int) -> None:
    """End the process at a second signal, or where the first finds no answer."""
    first = _next_signal(reading)
    began_s = time.monotonic()
    while True:
        passed_s = time.monotonic() - began_s
        is_stuck = passed_s > _REPEATED_WITHIN_S and _first is None and not stopping.is_working()
        if is_stuck or passed_s > _ENDS_WITHIN_S:
            _end(first, "Stopped at once, in the midst of a long step. What was kept is there")
        if select.select([reading], [], [], _REPEATED_WITHIN_S / 4)[0]:
            _next_signal(reading)
            if time.monotonic() - began_s > _REPEATED_WITHIN_S:
                _end(first, "Stopped at once, by a second signal. What was kept is there")


def _next_signal(reading: int) -> int:
    while True:
        number = os.read(reading, 1)[0]
        if number in _stopping_signals():
            return number


def _stopping_signals() -> set[int]:
    return {getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)}


def _end(number: int, told: str) -> None:
    """Say one line and end, with nothing left that works on alone."""
    _kill_children(os.getpid())
    clean = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""  # of a bar, which hides the cursor
    line = f"{clean}error: {told}: {resume_command()}\n"
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:  # a pipe that nobody reads must not hold us
            os.write(2, line.encode(errors="backslashreplace"))
    os._exit(128 + number)


def _kill_children(pid: int) -> None:
    """Kill a compiler, a reader of a foreign file, decoding processes; on Linux."""
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            for child in map(int, listing.read_text().split()):
                _kill_children(child)
                os.kill(child, signal.SIGKILL)


def _leave_to_parent() -> None:
    """Let a forked process neither write into the pipe nor answer to the terminal."""
    signal.set_wakeup_fd(-1)
    for number in _stopping_signals():
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
