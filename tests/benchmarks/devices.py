"""What several devices bring, by processes on a CPU: the figures of `extract --devices`.

    python -m tests.benchmarks.devices [--quick] [--repeats 3] [--only one two slow]

Run it on a quiet machine of two cores or more; the load is printed. Three questions, each a line:

- one: what does `--devices cpu:1` cost beside no `--devices`? CPU seconds of whole commands.
- two: how much faster are 2 workers of one thread each than one process of one thread?
- slow: how long do 2 workers take of which one is four times slower, beside the ideal? The slow one
  is stopped for three quarters of the time, by signals. Ideal is the time of one process, divided
  by 1.25. (Blocks have 32 images, so that the last one is no matter of luck.)

Times are those of the work: from the first block that a worker claims to the last that is
acknowledged. CPU seconds are of all processes of a command, imports included.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.workers import children_of, send

_STOPPED_S, _RUNNING_S = 0.06, 0.02
_SLOWER = _RUNNING_S / (_RUNNING_S + _STOPPED_S)
_MOST_SLOW, _LEAST_TWO, _MOST_ONE_S = 1.5, 1.8, 1.5
_ROWS_OF_A_BLOCK = 32
# Blocks of few rows; workers find their size in the file.
_COMMAND = (
    "import sys\n"
    "from tests.paces import blocks_of\n"
    "from featcache_cli.app import main\n"
    f"with blocks_of({_ROWS_OF_A_BLOCK}): main()\n"
)


@dataclass(frozen=True)
class _Measured:
    work_s: float
    cpu_s: float
    sha256: str
    stopped_share: float = 0.0


def main() -> int:
    """Print a line for each question; 0 if all is as it should be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few images, in a minute")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(_QUESTIONS), default=list(_QUESTIONS))
    asked = parser.parse_args()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{os.cpu_count()} cores; load before (1, 5, 15 minutes): {load}", flush=True)
    repeats = 1 if asked.quick else asked.repeats
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder), limit=80 if asked.quick else 400)
        hold = [_QUESTIONS[name](bench, repeats) for name in asked.only]
    return 0 if all(hold) else 1


class _Bench:
    """Caches of digits by a network with random weights, which one core computes for a while."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder, self._n = folder, 0
        self._options = ["--dataset", "digits", "--backbone", "resnet18", "--weights", "random"]
        self._options += ["--limit", str(limit), "--batch-size", "16", "--compile", "never"]

    def run(self, *more: str, slows: bool = False) -> _Measured:
        """Extract into a folder of its own."""
        self._n += 1
        home = self._folder / str(self._n)
        command = ["extract", *self._options, "--cache-dir", str(home), "--json", *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        slowing = _Slowing(process.pid)
        if slows:
            slowing.start()
        assert process.stdout is not None, "it is a pipe"
        told = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        slowing.end()
        assert process.returncode == 0, f"exit {process.returncode}"
        found = json.loads(told)
        [path] = home.glob("*/*.h5")
        return _Measured(
            found["n_rows_computed"] / found["images_per_s"],
            used.ru_utime + used.ru_stime,
            _sha256(path),
            slowing.stopped_share,
        )


class _Slowing(threading.Thread):
    """Stops the first worker of a leader for most of the time."""

    def __init__(self, leader: int) -> None:
        super().__init__(daemon=True)
        self._leader, self._is_over = leader, threading.Event()
        self._stopped_s, self._began_s = 0.0, 0.0

    def run(self) -> None:
        while not self._is_over.is_set():
            workers = children_of(self._leader, b"scale.devices.worker")
            if not workers or not _is_at_work(min(workers)):
                time.sleep(_RUNNING_S)
                continue
            self._began_s = self._began_s or time.monotonic()
            began_s = time.monotonic()
            send(min(workers), signal.SIGSTOP)
            time.sleep(_STOPPED_S)
            send(min(workers), signal.SIGCONT)
            self._stopped_s += time.monotonic() - began_s
            time.sleep(_RUNNING_S)

    def end(self) -> None:
        """Slow nobody any more."""
        self._is_over.set()
        if self.is_alive():
            self.join()

    @property
    def stopped_share(self) -> float:
        """Share of the time for which the worker was stopped."""
        return self._stopped_s / max(1e-9, time.monotonic() - (self._began_s or time.monotonic()))


def _is_at_work(pid: int) -> bool:
    """Tell whether a worker has opened the cache; a slow device does not import more slowly."""
    with contextlib.suppress(OSError):
        files = Path(f"/proc/{pid}/fd").iterdir()
        return any(file.readlink().suffix == ".partial" for file in files)
    return False


def _one(bench: _Bench, repeats: int) -> bool:
    plain, one = _in_turn(bench, repeats, [], ["--devices", "cpu:1"])
    more = [b.cpu_s - a.cpu_s for a, b in zip(plain, one, strict=True)]
    is_right = statistics.median(more) <= _MOST_ONE_S
    return _told(
        "one",
        is_right,
        f"--devices cpu:1 takes {_spread(more)} CPU s more than no --devices "
        f"({_spread([m.cpu_s for m in plain])} CPU s); at most {_MOST_ONE_S} beyond an import",
        [*plain, *one],
    )


def _two(bench: _Bench, repeats: int) -> bool:
    one, two = _in_turn(bench, repeats, ["--devices", "cpu:1"], ["--devices", "cpu:2"])
    faster = [a.work_s / b.work_s for a, b in zip(one, two, strict=True)]
    return _told(
        "two",
        statistics.median(faster) >= _LEAST_TWO,
        f"2 workers of one thread are {_spread(faster)} times as fast as one; at least "
        f"{_LEAST_TWO}. CPU s: {_spread([m.cpu_s for m in one])} by one, "
        f"{_spread([m.cpu_s for m in two])} by two",
        [*one, *two],
    )


def _slow(bench: _Bench, repeats: int) -> bool:
    one, two = [], []
    for _ in range(repeats):
        one.append(bench.run("--devices", "cpu:1"))
        two.append(bench.run("--devices", "cpu:2", slows=True))
    over = [b.work_s / (a.work_s / 1.25) for a, b in zip(one, two, strict=True)]
    return _told(
        "slow",
        statistics.median(over) <= _MOST_SLOW,
        f"2 workers, one of which is stopped for {_spread([m.stopped_share for m in two])} of the "
        f"time, take {_spread(over)} times the ideal time; at most {_MOST_SLOW}",
        [*one, *two],
    )


_QUESTIONS = {"one": _one, "two": _two, "slow": _slow}


def _in_turn(
    bench: _Bench, repeats: int, first: Sequence[str], second: Sequence[str]
) -> tuple[list[_Measured], list[_Measured]]:
    pairs = [(bench.run(*first), bench.run(*second)) for _ in range(repeats)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _told(name: str, is_right: bool, line: str, runs: Sequence[_Measured]) -> bool:
    """Print a line. A fast file that is another one counts for nothing."""
    n_files = len({run.sha256 for run in runs})
    holds = is_right and n_files == 1
    print(f"{name:5} {'holds' if holds else 'FAILS'}  {line}; {len(runs)} runs, ", end="")
    print("one file" if n_files == 1 else f"{n_files} files that differ", flush=True)
    return holds


def _spread(values: Sequence[float]) -> str:
    median = f"{statistics.median(values):.2f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):.2f} to {max(values):.2f}, n = {len(values)})"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
