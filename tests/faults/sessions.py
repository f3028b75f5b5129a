"""Processes that lead a session of their own, and what is left of them."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def forked(run: Callable[[], None]) -> int:
    """Run as the leader of a session, as a terminal or a scheduler starts a command."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            # A harness in the background ignores them, and a child would go on to.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            run()
            code = 0
        except SystemExit as err:
            code = err.code if isinstance(err.code, int) else int(err.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def wait(pid: int, *, within_s: float = 300) -> int:
    """Wait for the exit code; what runs on is killed."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGKILL


def wait_for_handlers(pid: int) -> None:
    """Wait until the command has taken the signals over: from then on it promises something."""
    while is_running(pid):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        [caught] = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")]
        if caught >> (signal.SIGHUP - 1) & 1:
            return
        time.sleep(0.001)


def is_running(pid: int) -> bool:
    """Tell whether it has not ended yet; it may wait for its parent."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def of_session(pid: int) -> list[int]:
    """The living processes of the session that this process led, itself left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it has just ended
        if int(session) == pid and state != "Z" and int(stat.parent.name) != pid:
            found.append(int(stat.parent.name))
    return found


def kill_session(pid: int) -> None:
    """Kill what is left of it."""
    for orphan in of_session(pid):
        os.kill(orphan, signal.SIGKILL)
