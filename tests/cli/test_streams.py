"""stdout and stderr that are full, closed or left, and machines that start no more threads."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import featcache
from featcache_cli.app import _run
from tests.cli.conftest import Run, child_environment

FULL = Path("/dev/full")


def featcache_in_a_shell(
    command: str, redirected: str, *, unbuffered: str = ""
) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m featcache_cli {command} {redirected}"
    environment = child_environment({"PYTHONUNBUFFERED": unbuffered})
    return subprocess.run(
        ["/bin/sh", "-c", program], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])  # an answer fails at its end, or at once
@pytest.mark.parametrize("command", ["datasets", "version --json", "--help", "help extract"])
def test_a_full_stdout_is_told_and_is_exit_14(command: str, unbuffered: str) -> None:
    finished = featcache_in_a_shell(command, "> /dev/full", unbuffered=unbuffered)

    assert finished.returncode == 14
    assert finished.stderr.splitlines() == [
        "error: The answer cannot be written to stdout: No space left on device (errno 28). What "
        "the command did is kept. Make room, and run it again for its answer."
    ]


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_stderr_changes_no_exit_code() -> None:
    finished = featcache_in_a_shell("cache info nothing", "2> /dev/full")

    assert finished.returncode == 10


@pytest.mark.parametrize("redirected", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(redirected: str) -> None:
    finished = featcache_in_a_shell("version --json", redirected)

    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_no_file_takes_the_place_of_a_closed_stream(pixels: list[str]) -> None:
    finished = featcache_in_a_shell(" ".join(pixels), "<&- >&- 2>&-")

    assert finished.returncode == 0
    [summary] = featcache.list_caches("cache")
    assert featcache.verify_cache(summary.path).is_sound


def test_another_failure_is_not_blamed_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    code = _run(read)

    assert code == 1
    assert "unexpected error: OSError: [Errno 5] Input/output error" in capsys.readouterr().err


def test_without_another_thread_a_command_says_so(
    run: Run, pixels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    result = run(*pixels)

    assert result.exit_code == 16
    assert "error: Threads that hash images cannot be started" in result.stderr


def test_without_another_process_a_command_says_so(
    run: Run, pixels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, os.strerror(11))

    monkeypatch.setattr(os, "fork", refuse)

    result = run(*pixels[:-1], "2")

    assert result.exit_code == 16
    assert "error: A process that decodes images cannot be started" in result.stderr
    assert "With --n-workers 0 none is needed" in result.stderr
