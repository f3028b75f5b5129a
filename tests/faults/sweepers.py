"""A sweep by several workers: compared with one process, and killed at random.

`python -m tests.faults.sweepers [--quick]`. Two claims: 32 heads have the same bytes by one, two
and three workers; workers and leaders that are killed change no byte of a head and leave no process
behind. The negative control of the first trains all heads side by side, in one group; that of the
second is a process that does not ask the system to end it with its parent.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

from featcache.training.sweeps.devices import leader  # noqa: F401 - the forks have it
from tests.faults.claims import Claim, main
from tests.faults.command import Command, run_command
from tests.faults.workers import (
    ENDED_BY_A_SIGNAL,
    MOST_TIMES,
    TOKEN,
    children_of,
    is_alive,
    n_ended,
    orphan_control,
    processes_with,
    send,
)
from tests.feature_caches import CLASS_NAMES, IDENTITY, FeatureRecipe, learnable_rows

_WORKERS = (1, 2, 3)
_N_RUNS = (1, 10)
_N_KILLS = (2, 4)  # of workers, in a run
_ENDS_WITHIN_S = 3.0
_AT_WORK_S = (2.0, 15.0)
_WORKER = b"sweeps.devices.worker"
_LOOKS_EVERY_S = 0.02
_GRID = "--reg none,l1l2,l2,dropout --lr 1e-3,1e-2 --hidden 32 --seeds 4 --batch-size 32"
_FEW_EPOCHS = "--max-epochs 12 --patience 2 --min-delta 0.01"
_MANY_EPOCHS = (
    "--max-epochs 40 --patience 6 --min-delta 0.001",
    "--max-epochs 400 --patience 40 --min-delta 0.0005",
)

Heads = dict[str, tuple[bytes, bytes, dict[str, object]]]


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Compare, then kill."""
    random.seed(0)
    os.environ["OMP_NUM_THREADS"] = "1"
    n_train = 300 if quick else 3000
    cache = folder / "folder-toys" / "toy-00000000.h5"
    cache.parent.mkdir(parents=True)
    splits = {"train": learnable_rows(n_train, seed=1), "test": learnable_rows(300, seed=2)}
    FeatureRecipe(
        cache, splits=splits, rows_per_block=64, identity=IDENTITY, class_names=CLASS_NAMES
    ).build()
    bench = _Bench(folder, cache)
    return [_compared(bench), _killed(bench, quick=quick)]


class _Bench:
    """Sweeps of one grid on one cache."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._cache, self._log = cache, folder / "log.txt"
        self.folder = folder

    def arguments(self, name: str, epochs: str, devices: int | None) -> list[str]:
        """The command."""
        place = ["--cache", str(self._cache), "--runs-dir", str(self.folder / name)]
        on = ["--devices", f"cpu:{devices}"] if devices else []
        return ["sweep", *place, *_GRID.split(), *epochs.split(), *on]

    def run(self, name: str, epochs: str, devices: int | None) -> Heads:
        """Sweep to the end."""
        ended = run_command(self.arguments(name, epochs, devices), self._log)
        assert ended.code == 0, ended.text
        return self.heads(name)

    def start(self, name: str, epochs: str, devices: int, token: str) -> Command:
        """Begin a sweep, or go on with it."""

        def before() -> None:
            os.environ[TOKEN] = token

        return Command(self.arguments(name, epochs, devices), self._log, before=before)

    def heads(self, name: str) -> Heads:
        """What must be the same of each head."""
        found: Heads = {}
        for path in sorted((self.folder / name).glob("*/*/head.safetensors")):
            figures = json.loads((path.parent / "result.json").read_text())
            del figures["seconds"]
            curves = (path.parent / "metrics.csv").read_bytes()
            found[path.parent.name] = (path.read_bytes(), curves, figures)
        return found


def _compared(bench: _Bench) -> Claim:
    by_workers = {n: bench.run(f"by-{n}", _FEW_EPOCHS, n) for n in _WORKERS}
    first = by_workers[_WORKERS[0]]
    n_same = {
        n: sum(first[name] == heads[name] for name in first) for n, heads in by_workers.items()
    }
    together = bench.run("together", _FEW_EPOCHS, None)
    n_other = sum(first[name][0] != together[name][0] for name in first)
    same = ", ".join(f"{n_same[n]} by {n}" for n in _WORKERS[1:])
    return Claim(
        35,
        f"a sweep of {len(first)} heads by {', '.join(map(str, _WORKERS))} workers: of head."
        f"safetensors, metrics.csv and result.json (but for the time) of one device's, {same} "
        f"are the same",
        len(first) == 32 and all(n == len(first) for n in n_same.values()),
        f"all heads in one group: {n_other} of {len(first)} heads have other bytes",
        n_other > 0,
    )


def _killed(bench: _Bench, *, quick: bool) -> Claim:
    epochs = _MANY_EPOCHS[not quick]
    whole = bench.run("whole", epochs, 1)
    counts, problems, n_same, slowest_s = Counter[str](), [], 0, 0.0
    least, n_kills, n_runs = _N_RUNS[not quick], _N_KILLS[not quick], 0
    while n_runs < least or (
        n_runs < MOST_TIMES * least and not (counts["workers killed"] and n_ended(counts))
    ):
        name, n_left = f"killed-{n_runs}", n_kills
        n_runs += 1
        while True:
            token = uuid.uuid4().hex
            command = bench.start(name, epochs, random.choice((2, 3)), token)
            n_left = _strike(command, n_left, counts)
            ended = command.wait()
            counts["commands"] += 1
            counts[f"exit {ended.code}"] += 1
            slowest_s = max(slowest_s, _gone_after_s(token, counts))
            if ended.code not in (0, *ENDED_BY_A_SIGNAL) or "Traceback" in ended.text:
                problems.append(f"exit {ended.code}: {ended.text[-400:]}")
                break
            if ended.code == 0:
                break
        n_same += bench.heads(name) == whole
        counts["left behind"] += len(list((bench.folder / name).glob("*/sweep-*.partial")))
    ends = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()) if name[:4] == "exit")
    n_signals = sum(n for name, n in counts.items() if name.startswith("leader"))
    n_leaders = n_ended(counts)
    return Claim(
        36,
        f"{counts['workers killed']} SIGKILLs of workers and {n_leaders} ends of leaders by "
        f"{n_signals} signals over {n_runs} sweeps of {len(whole)} heads and "
        f"{counts['commands']} commands ({ends}): "
        f"{n_same} of {n_runs} sweeps with the bytes of an unbroken one, {counts['left behind']} "
        f"checkpoints and {counts['left alive']} processes left {_ENDS_WITHIN_S:g} s after an end, "
        f"the slowest gone after {slowest_s:.1f} s{f'; problems: {problems}' if problems else ''}",
        not (problems or counts["left alive"] or counts["left behind"])
        and n_same == n_runs
        and counts["workers killed"] > 0
        and n_leaders > 0,
        *orphan_control(),
    )


def _strike(command: Command, n_left: int, counts: Counter[str]) -> int:
    """Kill workers while they load and train, and at last the leader; give the kills left."""
    is_last = n_left == 0
    for _ in range(random.randint(1, 2)):
        if n_left == 0 or not (workers := _workers_at_work(command)):
            break
        if send(random.choice(workers), signal.SIGKILL):
            n_left -= 1
            counts["workers killed"] += 1
    if not is_last and _workers_at_work(command):
        number = random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        counts[f"leader {number.name}"] += send(command.pid, number)
    return n_left


def _workers_at_work(command: Command) -> list[int]:
    """Wait for workers, and for a moment in their work; none if the command ends before."""
    while is_alive(command.pid) and not children_of(command.pid, _WORKER):
        time.sleep(_LOOKS_EVERY_S)
    moment_s = time.monotonic() + random.uniform(*_AT_WORK_S)
    while is_alive(command.pid) and time.monotonic() < moment_s:
        time.sleep(_LOOKS_EVERY_S)
    return children_of(command.pid, _WORKER) if is_alive(command.pid) else []


def _gone_after_s(token: str, counts: Counter[str]) -> float:
    began_s = time.monotonic()
    while (left := processes_with(token)) and time.monotonic() - began_s < _ENDS_WITHIN_S:
        time.sleep(_LOOKS_EVERY_S)
    counts["left alive"] += len(left)
    return time.monotonic() - began_s


if __name__ == "__main__":
    sys.exit(main("sweepers", claims))
