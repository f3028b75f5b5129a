"""Kill and fail a small extraction at every one of its system calls that write, and heads too.

    python -m tests.faults.syscalls [--quick] [--out FILE.json]

The extraction is the command line itself, in a process forked from one that has imported all, at a
few blocks of four rows. It tells over a pipe which rows `commit` has acknowledged. tests/faults/
intercept.py does the killing, in the kernel, and strace counts the calls as well: none is missed.

The negative control does the same to a naive loop that appends rows with h5py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.faults.claims import Claim, main, require_tool
from tests.faults.headsaves import claim_heads
from tests.faults.intercept import Fault, Outcome, run
from tests.faults.trials import Bench, Extraction, NaiveAppend, Trial

_ERRORS = {"EIO": 1, "ENOSPC": 14, "EDQUOT": 14}
_SURVIVED = ("EINTR", "short")
_FAULTS = (
    ("EIO", False),
    ("EIO", True),
    ("ENOSPC", False),
    ("ENOSPC", True),
    ("EDQUOT", False),
    ("EINTR", False),
    ("short", False),
)
"""What happens to calls, and whether it lasts to the end of the run."""
_READERS = re.compile(
    "openat|l?stat|fstat|newfstatat|statx|f?statfs|access|faccessat2?|readlink(at)?|getdents64|"
    "read|pread64|preadv2?|lseek|close|fcntl|flock|ioctl|mmap|munmap|dup|chdir|getcwd|fadvise64"
)
"""What changes no file, unless its flags say so; any other call is one that writes."""


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Try all; `quick` takes every n-th call only."""
    folder = folder.resolve()
    torch.set_num_threads(1)
    extraction = Extraction(folder)
    extraction.warm_up()
    bench, control = Bench(extraction), Bench(NaiveAppend(folder))
    return [
        _claim_kills(bench, control, folder, quick=quick),
        _claim_errors(bench, control, quick=quick),
        claim_heads(folder, quick=quick),
    ]


def _claim_kills(bench: Bench, control: Bench, folder: Path, *, quick: bool) -> Claim:
    n_traced, missed = _count_with_strace(bench, folder / "strace.log")
    kills = bench.sweep("SIGKILL", step=13 if quick else 1)
    again = []
    for first in _spread(bench.n_calls, 1 if quick else 4):
        again += _kill_recoveries(bench, folder / "killed", first, step=37 if quick else 1)
    naive = control.sweep("SIGKILL")
    n_naive_lost = sum(t.n_lost > 0 for t in naive)
    n_identical, n_again = (sum(t.is_identical for t in ts) for ts in (kills, again))
    n_told, n_lost = (sum(getattr(t, n) for t in kills + again) for n in ("n_told", "n_lost"))
    return Claim(
        2,
        f"{len(kills)} calls killed, {n_identical}/{len(kills)} byte-identical; {len(again)} kills "
        f"during recovery, {n_again}/{len(again)}; {n_lost} of {n_told} acknowledged rows lost; "
        f"strace sees {n_traced} calls that write, {missed} of them not among those killed",
        is_proved=bool(kills and again and n_told)
        and (n_identical, n_again, n_lost, missed) == (len(kills), len(again), 0, 0)
        and n_traced > 0
        and all(t.outcome.status == -9 for t in kills + again),
        control=f"naive h5py append: {n_naive_lost} of {len(naive)} killed files lost rows",
        control_failed=n_naive_lost > 0,
    )


def _kill_recoveries(bench: Bench, snapshot: Path, first: int, *, step: int) -> list[Trial]:
    """Kill once, then kill the resume at each of its calls."""
    bench.start_from(None)
    killed = run(bench.subject, bench.subject.folder, Fault("SIGKILL", first))
    shutil.rmtree(snapshot, ignore_errors=True)
    shutil.copytree(bench.subject.folder, snapshot)
    trials = []
    for at in range(1, 10_000, step):
        trial = bench.trial(Fault("SIGKILL", at), start=snapshot, told=killed.told)
        if trial.outcome.hit is None:
            break
        trials.append(trial)
    return trials


def _claim_errors(bench: Bench, control: Bench, *, quick: bool) -> Claim:
    tried: list[str] = []
    n_wrong = 0
    for i, (kind, lasts) in enumerate(_FAULTS):
        first, step = (5 + 2 * i, 41) if quick else (1, 1)
        trials = bench.sweep(kind, first=first, step=step, lasts=lasts)
        bad = [t for t in trials if not (_is_clear(kind, t.outcome) and _is_whole(t))]
        name = f"{kind} lasting" if lasts else kind
        tried.append(f"{name} {len(trials) - len(bad)}/{len(trials)}")
        n_wrong += len(bad)
        for trial in bad:
            print(f"{name}: {_described(trial)}", file=sys.stderr, flush=True)
    naive = control.sweep("ENOSPC", step=3 if quick else 1, lasts=True)
    n_naive_lost = sum(not _is_whole(t) for t in naive)
    return Claim(
        3,
        f"errors at {'some calls' if quick else 'every call'}, message and exit code right, "
        f"acknowledged rows kept, resumed byte-identical: {', '.join(tried)}",
        is_proved=n_wrong == 0 and all(int(t.rpartition("/")[2]) > 0 for t in tried),
        control=f"naive h5py append, ENOSPC lasting: {n_naive_lost} of {len(naive)} files lost "
        f"rows or could not be resumed",
        control_failed=n_naive_lost > 0,
    )


def _described(trial: Trial) -> str:
    outcome = trial.outcome
    return (
        f"{outcome.hit}, the last of {len(outcome.calls)} calls is {outcome.calls[-1]}; exit "
        f"{outcome.status}, {trial.n_lost} of {trial.n_told} rows lost, identical: "
        f"{trial.is_identical}\n{outcome.stderr}"
    )


def _is_whole(trial: Trial) -> bool:
    return trial.n_lost == 0 and trial.is_identical


def _is_clear(kind: str, outcome: Outcome) -> bool:
    """Tell whether a run survived what can be survived, else said in one line what happened."""
    assert outcome.hit is not None, "a sweep keeps no other"
    if outcome.status == 0:  # the lock file's text is for people; a folder may be there already
        is_harmless = outcome.hit.path.suffix == ".lock" or outcome.hit.name == "mkdir"
        return kind in _SURVIVED or is_harmless
    number = errno.EINTR if kind == "short" else getattr(errno, kind)
    said = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    return (
        outcome.status == _ERRORS.get(kind, 1)
        and len(said) == 1
        and f"{os.strerror(number)} (errno {number})" in said[0]
        and not re.search("traceback|unexpected", outcome.stderr, re.IGNORECASE)
    )


def _count_with_strace(bench: Bench, log: Path) -> tuple[int, int]:
    """(calls that write as strace sees them, those of them that the interceptor did not see)."""
    strace = require_tool("strace")

    @contextlib.contextmanager
    def traced(pid: int) -> Iterator[None]:
        tracer = subprocess.Popen([strace, "-f", "-y", "-qq", "-o", str(log), "-p", str(pid)])
        while "\nTracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
            if tracer.poll() is not None:
                sys.exit("strace may not attach here, so that nothing counts the calls again")
            time.sleep(0.01)
        yield
        tracer.wait()

    bench.start_from(None)
    outcome = run(bench.subject, bench.subject.folder, beside=traced)
    place = re.escape(str(bench.subject.folder))
    traced_calls: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        call = re.match(rf"\d+ +(\w+)\(.*?{place}", line)
        if call and (not _READERS.fullmatch(call[1]) or _writes(line)):
            traced_calls[call[1]] += 1
    missed = traced_calls - Counter(call.name for call in outcome.calls)
    return traced_calls.total(), missed.total()


def _writes(line: str) -> bool:
    return bool(re.search("O_WRONLY|O_RDWR|O_CREAT|MAP_SHARED.*PROT_WRITE", line)) or bool(
        re.search("PROT_WRITE.*MAP_SHARED", line)
    )


def _spread(n_calls: int, n: int) -> list[int]:
    """Choose n of the calls, evenly, the last before the end."""
    return [round(n_calls * (i + 1) / (n + 1)) for i in range(n)]


if __name__ == "__main__":
    sys.exit(main("syscalls", claims))
