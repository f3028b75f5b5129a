"""When a signal ends a command, on the command line itself with work that imports no torch."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Spawn, child_environment

AT_ONCE = "error: Stopped. Nothing is lost. Run the same command again: featcache {}\n"
STOPPED = "error: Stopped. What was done is kept.\nhint: featcache {}\n"
NOHUP = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from featcache_cli import app
app.app = lambda: None
app.main()
print([signal.getsignal(s) is signal.SIG_IGN for s in (signal.SIGHUP, signal.SIGTERM)])
"""
IN_IMPORTS = """
import os, signal, sys
from featcache_cli import __main__, app
import typer.core, typer.main
place, name, number = eval(sys.argv[1]), sys.argv[2], getattr(signal, sys.argv[3])
real = getattr(place, name)
def stop_first(*args, **kwargs):
    os.kill(os.getpid(), number)
    return real(*args, **kwargs)
setattr(place, name, stop_first)
sys.argv = ["featcache", "datasets", "it's"]
__main__.main()
"""
WORK = """
import ctypes, gc, hashlib, os, signal, subprocess, sys, threading, time, weakref
from featcache.core.stopping import breakable, stop_if_asked, working
from featcache_cli import app, signals
def press(): os.kill(os.getpid(), signal.SIGTERM)
def loop():
    for _ in range(300):
        stop_if_asked()
        time.sleep(0.01)
def work():
    {}
    print("done")
app.app.command("work")(work)
sys.argv = ["featcache", "work"]
app.main()
"""
IN_FORK = WORK.format("""
    os.register_at_fork(before=press)
    with working():
        if os.fork() == 0:
            os._exit(0)
        loop()""")
IN_WEAKREF = WORK.format("""
    class Thing: pass
    thing = Thing()
    watched = weakref.ref(thing, lambda _: press())
    with working():
        del thing
        loop()""")
AFTER_THE_LAST_LOOK = WORK.format("""
    with working():
        press()""")
IN_LONG_WORK = WORK.format("""
    threading.Timer(0.2, press).start()
    with working(), breakable():
        time.sleep(20)""")
NO_ANSWER = WORK.format("""
    signals._ENDS_WITHIN_S = 0.5
    with working():
        subprocess.Popen(["sleep", "20"])
        threading.Timer(0.1, press).start()
        while True:
            time.sleep(0.1)""")
IN_ONE_LONG_CALL = WORK.format("""
    signals._REPEATED_WITHIN_S = 0.3
    threading.Timer(0.2, press).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)""")
NEVER_LOOKS = WORK.format("""
    with working():
        print("begun", flush=True)
        while True:
            time.sleep(0.1)""")


def test_nohup_is_respected(spawn: Spawn) -> None:
    assert spawn(code=NOHUP).stdout == "[True, False]\n"


@pytest.mark.parametrize(
    ("place", "name"),
    [("typer.main", "get_command"), ("typer.core.TyperGroup", "parse_args")],
    ids=["while the command line is built", "while its arguments are read"],
)
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_before_the_command_begins_ends_it_with_one_line(
    spawn: Spawn, place: str, name: str, number: str, code: int
) -> None:
    result = spawn(place, name, number, code=IN_IMPORTS)

    assert result.returncode == code, result.stderr
    assert result.stderr == AT_ONCE.format("datasets 'it'\"'\"'s'")


@pytest.mark.parametrize(
    "code", [IN_FORK, IN_WEAKREF], ids=["in a hook of fork", "in a weakref callback"]
)
def test_a_signal_where_python_ignores_what_is_raised_is_not_lost(spawn: Spawn, code: str) -> None:
    result = spawn(code=code)

    assert (result.returncode, result.stdout) == (143, "")
    assert result.stderr == STOPPED.format("work")


def test_a_signal_after_the_last_look_is_met_at_the_end_of_the_work(spawn: Spawn) -> None:
    result = spawn(code=AFTER_THE_LAST_LOOK)

    assert (result.returncode, result.stdout) == (143, "")
    assert result.stderr == STOPPED.format("work")


def test_work_that_is_not_ours_is_interrupted_where_it_is(spawn: Spawn) -> None:
    started = time.monotonic()

    result = spawn(code=IN_LONG_WORK)

    assert result.returncode == 143
    assert time.monotonic() - started < 10
    assert result.stderr == STOPPED.format("work")


def test_work_that_does_not_answer_is_ended_and_its_children_too(spawn: Spawn) -> None:
    result = spawn(code=NO_ANSWER)  # waits for the pipes that the child holds

    assert result.returncode == 143
    assert "error: Stopped at once, in the midst of a long step. What was kept is" in result.stderr


def test_one_long_call_before_the_first_write_does_not_hold_the_end(spawn: Spawn) -> None:
    result = spawn(code=IN_ONE_LONG_CALL)

    assert (result.returncode, result.stdout) == (143, "")


def test_a_second_signal_after_a_second_ends_at_once(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NEVER_LOOKS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for pause_s in (0.2, 1.0, 0.0):  # the one right behind the first does not count
            process.send_signal(signal.SIGINT)
            time.sleep(pause_s)
        _, stderr = process.communicate(timeout=3)

    assert process.returncode == 130
    assert stderr == (
        "error: Stopped at once, by a second signal. What was kept is there: featcache work\n"
    )
