"""One cache by several workers: compared with that of one process, and killed at random.

`python -m tests.faults.workers [--quick]`. Two claims: caches of every kind have the bytes of one
process, by any number of workers; workers and leaders that are killed lose nothing, leave no
process behind, and the next command goes on to the same file with another number of workers.

The negative control of the first adapts BatchNorm on the images of one worker. That of the second
is a process that does not ask the system to end it with its parent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import featcache
from featcache.errors import FeatcacheError
from featcache.store import read_state
from tests.faults.claims import Claim, main
from tests.faults.command import Command, Ended
from tests.paces import blocks_of
from tests.scale.kinds import BATCH_SIZE, Kind, kinds

_WORKERS = (1, 2, 3, 4)
_N_RUNS, _N_KILLS, _N_ENDS = (2, 40), (1, 200), (1, 50)  # at least; of workers, of leaders
MOST_TIMES = 5  # so many runs, where kills come too late
_N_KILLS_OF_WORKERS = 5  # in a run
_ENDS_WITHIN_S = 3.0
ENDED_BY_A_SIGNAL = (130, 143, -signal.SIGKILL)
TOKEN = "FEATCACHE_TRIAL"
_LOOKS_EVERY_S = 0.02


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Compare, then kill."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    random.seed(0)
    counts = {"n_train": 13, "n_test": 5} if quick else {"n_train": 110, "n_test": 37}
    with blocks_of(BATCH_SIZE):
        of_each = list(kinds(folder / "kinds", **counts))
        compared = _compared(folder, of_each[1:3] if quick else of_each, quick=quick)
        many = kinds(folder / "many", n_train=260, n_test=100)
        [network] = [kind for kind in many if kind.name == "a network"]
        i = 0 if quick else 1
        return [compared, _killed(folder, network, _N_RUNS[i], _N_KILLS[i], _N_ENDS[i])]


def _compared(folder: Path, of_each: list[Kind], *, quick: bool) -> Claim:
    n_same, n_tried, names = 0, 0, []
    workers = _WORKERS[1:2] if quick else _WORKERS
    for kind in of_each:
        home = folder / "compared" / kind.name
        whole = _sha256(kind.whole(home / "one").path)
        for n in workers:
            spec = kind.spec(home / f"{n}")
            made = featcache.extract_on_devices(spec, devices=f"cpu:{n}")
            n_same += _sha256(made.path) == whole
            n_tried += 1
        names.append(kind.name)
    n_differ = _without_handing_down(folder, of_each)
    return Claim(
        31,
        f"{len(names)} kinds of caches ({', '.join(names)}) by {', '.join(map(str, workers))} "
        f"workers: {n_same} of {n_tried} have the SHA-256 of one process's",
        n_same == n_tried,
        f"BatchNorm adapted on the images of one worker, not handed down: {n_differ} rows differ",
        n_differ > 0,
    )


def _without_handing_down(folder: Path, of_each: list[Kind]) -> int:
    """Adapt BatchNorm on every second image, as a worker on its own would; count other rows."""
    adapted = next(kind for kind in of_each if kind.options.get("bn") == "adapted")
    whole = featcache.open_cache(adapted.whole(folder / "compared" / adapted.name / "one").path)
    n_half = len(whole["train"].ids) // 2
    half = replace(adapted, options={**adapted.options, "limit": n_half})
    alone = featcache.open_cache(half.whole(folder / "control").path)["train"]
    rows = {name: row for row, name in enumerate(whole["train"].ids)}
    same = whole["train"].features[[rows[name] for name in alone.ids]]
    return int((same != alone.features[:]).any(axis=1).sum())


@dataclass
class _Trial:
    """A cache that is begun, killed and continued until it is complete."""

    kind: Kind
    home: Path
    log: Path
    counts: Counter[str]
    slowest_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def run(self) -> Path:
        """Go on until the cache is there."""
        n_left, n_before = _N_KILLS_OF_WORKERS, 0
        while True:
            n_workers = random.choice([n for n in (2, 3, 4) if n != n_before])
            n_before, token = n_workers, uuid.uuid4().hex
            command = self._command(n_workers, token)
            n_left = self._kill(command, n_left)
            ended = command.wait()
            self.counts["commands"] += 1
            self._require_end(ended, token)
            found = list(self.home.glob("*/*.h5"))
            if found:
                return found[0]

    def _command(self, n_workers: int, token: str) -> Command:
        options = {f"--{n.replace('_', '-')}": str(v) for n, v in self.kind.options.items()}
        asked = {"--dataset": self.kind.dataset, "--cache-dir": str(self.home), "--n-workers": "1"}
        words = [w for pair in {**asked, **options}.items() for w in pair]

        def before() -> None:
            torch.set_num_threads(1)
            os.environ[TOKEN] = token

        return Command(
            ["extract", *words, "--devices", f"cpu:{n_workers}"], self.log, before=before
        )

    def _kill(self, command: Command, n_left: int) -> int:
        """Kill workers in mid-work, and at last the leader; give how many kills are left."""
        kills_leader = random.random() < 0.7
        for _ in range(random.randint(1, 3)):
            if n_left == 0 or not self._is_at_work(command):
                break
            time.sleep(random.uniform(0, 0.3))
            before = self._acknowledged()
            workers = children_of(command.pid, b"scale.devices.worker")
            if workers and send(random.choice(workers), signal.SIGKILL):
                n_left -= 1
                self.counts["workers killed"] += 1
                self._compare_acknowledged(before)
        if kills_leader and self._is_at_work(command):
            time.sleep(random.uniform(0, 0.3))
            number = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            before = self._acknowledged()
            if send(command.pid, number):
                self.counts[f"leaders with {number.name}"] += 1
                self._compare_acknowledged(before)
        return n_left

    def _is_at_work(self, command: Command) -> bool:
        """Wait until the workers acknowledge something new; tell whether they did."""
        n_before, began_s = len(self._acknowledged()), time.monotonic()
        while time.monotonic() - began_s < 60 and is_alive(command.pid):
            if len(self._acknowledged()) > n_before:
                return True
            time.sleep(_LOOKS_EVERY_S)
        return False

    def _acknowledged(self) -> set[int]:
        for path in (*self.home.glob("*/*.h5.partial"), *self.home.glob("*/*.h5")):
            with contextlib.suppress(FeatcacheError, OSError):
                return set(read_state(path).slots)
        return set()

    def _compare_acknowledged(self, before: set[int]) -> None:
        self.counts["acknowledged"] += len(before)
        self.counts["lost"] += len(before - self._acknowledged())

    def _require_end(self, ended: Ended, token: str) -> None:
        """See that nothing is left alive, and that the command ended as it should."""
        began_s = time.monotonic()
        while (left := processes_with(token)) and time.monotonic() - began_s < _ENDS_WITHIN_S:
            time.sleep(_LOOKS_EVERY_S)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        self.counts["left alive"] += len(left)
        self.counts[f"exit {ended.code}"] += 1
        # 3: there is an unreadable image; 16: three kills while one block was at work
        if ended.code not in (3, 16, *ENDED_BY_A_SIGNAL) or "Traceback" in ended.text:
            self.problems.append(f"exit {ended.code}: {ended.text[-400:]}")


def _killed(folder: Path, kind: Kind, n_runs: int, n_kills: int, n_ends: int) -> Claim:
    whole = _sha256(kind.whole(folder / "unkilled").path)
    counts, n_same, n_still, slowest_s, problems = Counter[str](), 0, 0, 0.0, []
    least, n_runs = n_runs, 0
    while n_runs < least or (
        n_runs < MOST_TIMES * least
        and (counts["workers killed"] < n_kills or n_ended(counts) < n_ends)
    ):
        trial = _Trial(kind, folder / f"killed-{n_runs}", folder / "log.txt", counts)
        n_runs += 1
        path = trial.run()
        found = _sha256(path)
        n_same += found == whole
        time.sleep(_ENDS_WITHIN_S)
        n_still += _sha256(path) == found
        slowest_s = max(slowest_s, trial.slowest_s)
        problems += trial.problems
    leaders = {name: n for name, n in sorted(counts.items()) if name.startswith("leaders")}
    ends = {name: n for name, n in sorted(counts.items()) if name.startswith("exit")}
    return Claim(
        32,
        f"{counts['workers killed']} SIGKILLs of workers and {n_ended(counts)} ends of "
        f"leaders ({_told(leaders)}) over {n_runs} caches and {counts['commands']} commands, each "
        f"with another number of workers ({_told(ends)}): {counts['lost']} of "
        f"{counts['acknowledged']} acknowledged blocks lost, {n_same} of {n_runs} files "
        f"byte-identical, {n_still} of {n_runs} unchanged {_ENDS_WITHIN_S:g} s later, "
        f"{counts['left alive']} processes alive {_ENDS_WITHIN_S:g} s after an end, the slowest "
        f"gone after {slowest_s:.1f} s{f'; problems: {problems}' if problems else ''}",
        not (counts["lost"] or counts["left alive"] or problems)
        and n_same == n_still == n_runs
        and counts["workers killed"] >= n_kills
        and n_ended(counts) >= n_ends,
        *orphan_control(),
    )


def n_ended(counts: Counter[str]) -> int:
    """How many commands a signal ended; one that was sent too late ends none."""
    return sum(counts[f"exit {code}"] for code in ENDED_BY_A_SIGNAL)


def orphan_control() -> tuple[str, bool]:
    """Kill the parent of a process that does not ask the system to die with it."""
    token = uuid.uuid4().hex
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '20']); time.sleep(20)"
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, TOKEN: token})
    began_s = time.monotonic()
    while len(processes_with(token)) < 2 and time.monotonic() - began_s < 10:
        time.sleep(_LOOKS_EVERY_S)
    parent.kill()
    parent.wait()
    time.sleep(_ENDS_WITHIN_S)
    left = processes_with(token)
    for pid in left:
        send(pid, signal.SIGKILL)
    return f"a worker that does not die with its leader: {len(left)} of 1 left alive", len(left) > 0


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def processes_with(token: str) -> list[int]:
    """List the processes that a command with this token has started, itself excepted."""
    return [
        pid for pid, environment in _environments() if f"{TOKEN}={token}".encode() in environment
    ]


def _environments() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if path.with_name("stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield int(path.parent.name), path.read_bytes()


def children_of(pid: int, module: bytes) -> list[int]:
    """List the workers of a leader, by the module that they run."""
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in listing.read_text().split()]
    return [child for child in found if module in _command_line(child)]


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def is_alive(pid: int) -> bool:
    """Tell whether a process runs."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; tell whether the process was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main("workers", claims))
