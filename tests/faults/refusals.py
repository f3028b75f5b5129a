"""Commands that must refuse, each in a process of its own, all under one strace.

A process that has imported torch forks for each command, so that a refusal is timed and not the
imports: `python -m tests.faults.refusals JOBS ENDS` is that process.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.claims import require_tool
from tests.faults.command import run_command

CODES = {12, 13, 15}
LIMIT_S = 10.0
_MODULES = (
    "featcache_cli.app",
    "featcache.training.train_head",
    "featcache.training.run",
    "featcache.extraction.run",
    "featcache.extraction.plan",
    "featcache.images.sources.digits",
)


@dataclass(frozen=True)
class Job:
    """A command, and what it may touch.

    Attributes:
        name: For a report.
        arguments: Behind `featcache`.
        hostile: The file that it must refuse and leave as it is.
        may_open: Files, and folders with all that is in them.
        must_not_make: A file or folder that must not be there afterwards.
    """

    name: str
    arguments: Sequence[str]
    hostile: str
    may_open: Sequence[str]
    must_not_make: str


@dataclass(frozen=True)
class Refusals:
    """How all commands ended.

    Attributes:
        n_jobs: How many there were.
        n_refused: Those that ended with a message and a code of `CODES`, and changed nothing.
        wrong: What was no clean refusal, and files opened that none may open, a line each.
        slowest_s: The longest time from the fork to the end.
        n_seen: Hostile files that strace saw opened; without any it saw nothing.
    """

    n_jobs: int
    n_refused: int
    wrong: Sequence[str]
    slowest_s: float
    n_seen: int

    @property
    def told(self) -> str:
        """Say it as part of a claim."""
        return (
            f"{self.n_jobs} times train-head on a hostile file, or extract with one in the place "
            f"of its cache or partial file: {self.n_refused} ended with a message and exit 12, 13 "
            f"or 15 and changed nothing, the slowest {self.slowest_s:.1f} s after its imports "
            f"(limit {LIMIT_S:g} s)"
        )

    @property
    def is_proved(self) -> bool:
        """Whether all were refusals, in time, and strace saw what was to be seen."""
        return not self.wrong and self.slowest_s < LIMIT_S and self.n_seen > 0


def refusals(jobs: Sequence[Job], folder: Path, *, plugins: Path) -> Refusals:
    """Run all commands; nothing below `folder` may be opened beside what each may open."""
    log, listed, ends = (folder / name for name in ("strace.log", "jobs.json", "ends.json"))
    listed.write_text(json.dumps([asdict(job) for job in jobs]))
    before = [_looks(job.hostile) for job in jobs]
    # seccomp: all other calls go at full speed, and importing torch makes many.
    traced = [require_tool("strace"), "-f", "--seccomp-bpf", "-s", "4096"]
    traced += ["-e", "trace=open,openat,execve"]
    module = [sys.executable, "-m", "tests.faults.refusals", str(listed), str(ends)]
    environment = {**os.environ, "HDF5_PLUGIN_PATH": str(plugins), "OMP_NUM_THREADS": "1"}
    subprocess.run([*traced, "-o", str(log), *module], check=True, env=environment)
    wrong, slowest_s = [], 0.0
    for job, ended, looked in zip(jobs, json.loads(ends.read_text()), before, strict=True):
        slowest_s = max(slowest_s, ended["seconds"])
        what = _what_is_wrong(ended)
        if what is None and Path(job.must_not_make).exists():
            what = f"made {job.must_not_make}"
        if what is None and _looks(job.hostile) != looked:
            what = "changed the file"
        wrong += [] if what is None else [f"{job.name}: {what}"]
    n_refused = len(jobs) - len(wrong)
    opened = set(re.findall(r'"([^"]*)"', log.read_text(errors="replace")))
    fine = {str(listed), str(ends), f"{ends}.log"} | {f for job in jobs for f in job.may_open}
    beside = sorted(o for o in opened if o.startswith(f"{folder}/") and not _is_within(o, fine))
    wrong += [f"opened {path}" for path in beside]
    return Refusals(
        len(jobs), n_refused, wrong, slowest_s, len(opened & {job.hostile for job in jobs})
    )


def _what_is_wrong(ended: dict[str, object]) -> str | None:
    code, text = ended["code"], str(ended["text"])
    if code not in CODES or "error: " not in text or "Traceback" in text or "unexpected" in text:
        return f"exit {code}: {text[-300:]}"
    if len(text) > 3000 or "\x1b" in text:
        return f"a message of {len(text)} characters"
    return None


def _is_within(path: str, places: set[str]) -> bool:
    return path in places or any(path.startswith(f"{place}/") for place in places)


def _looks(path: str) -> tuple[int, int, int, int]:
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns


def _main(listed: Path, ends: Path) -> None:
    for name in _MODULES:
        importlib.import_module(name)
    ended = []
    log = Path(f"{ends}.log")
    for job in json.loads(listed.read_text()):
        started = time.perf_counter()
        # What hangs ends by SIGALRM.
        end = run_command(job["arguments"], log, before=lambda: signal.alarm(int(LIMIT_S)))
        seconds = time.perf_counter() - started
        ended.append({"code": end.code, "text": end.text, "seconds": seconds})
    ends.write_text(json.dumps(ended))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
