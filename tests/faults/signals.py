"""Stop real commands by signals at random moments, and look what is left of them.

    python -m tests.faults.signals [--quick] [--out FILE.json]

Each command is the command line itself, in a process forked from one that has imported torch
already, and leads a session of its own. The negative control is the usual loop: decoding processes
that wait for work, and rows appended with h5py.
"""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from featcache.store import list_caches
from featcache_cli.app import main as featcache_main
from tests.conftest import SMALL_TRUNK, save_image
from tests.faults.claims import Claim, main

_EXITS_WITHIN_S = 10
_SIGNALS = (
    (signal.SIGTERM,),
    (signal.SIGINT,),
    (signal.SIGHUP,),
    (signal.SIGINT, signal.SIGINT),
)


@dataclass(frozen=True)
class Command:
    """A command that can be stopped.

    Attributes:
        name: For the report.
        arguments: Of `featcache`, but for the folder that it writes to.
        folder_option: The option that names this folder.
        results: Which files below it are its results, to be compared.
    """

    name: str
    arguments: tuple[str, ...]
    folder_option: str
    results: str

    def run(self, folder: Path) -> None:
        """Be this command; never returns."""
        folder.mkdir(exist_ok=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(_told(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv = ["featcache", *self.arguments, self.folder_option, str(folder)]
        featcache_main()

    def bytes_of(self, folder: Path) -> dict[str, bytes]:
        """Its results, by their place in the folder."""
        files = sorted(folder.rglob(self.results))
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Stop every command by every signal, and the naive loop too."""
    random.seed(0)
    importlib.import_module("featcache.sweeping")  # with torch: once, not in each process
    n_images = 200 if quick else 900
    images = folder / "images"
    for i in range(n_images):
        save_image(images / ("train" if i % 5 else "test") / f"class{i % 3}" / f"{i}.png", i)
    commands = _commands(folder, images)
    combinations = list(itertools.product(commands, _SIGNALS))
    # Quick: each command and each signal once.
    chosen = [combinations[5 * i] for i in range(4)] if quick else combinations * 4
    references = {command: _reference(command, folder) for command in dict(chosen)}
    counts: Counter[str] = Counter()
    for i, (command, signals) in enumerate(chosen):
        whole, whole_s = references[command]
        place = folder / f"trial{i}"
        problems = _trial(command, signals, place, whole, whole_s * random.random(), counts)
        for problem in problems:
            print(f"{command.name}, {_names(signals)}: {problem}", file=sys.stderr, flush=True)
        counts["trials with a problem"] += bool(problems)
        shutil.rmtree(place)
    n_orphans, n_broken, n_naive = _stop_naive(folder, images, n_trials=2 if quick else 8)
    return [
        Claim(
            7,
            f"{len(chosen)} signals ({', '.join(map(_names, _SIGNALS))}) at random moments of "
            f"{', '.join(command.name for command in references)}: {counts['stopped']} ended the "
            f"command, with its exit code, {counts['done before']} came when all was done; slowest "
            f"end {counts['slowest, ms'] / 1000:.1f} s; {counts['orphans']} orphans; "
            f"{counts['identical']}/{len(chosen)} byte-identical after the same command again, "
            f"{counts['went on']} of which went on with what was kept",
            # Four moments may all come before anything is kept; the many of a full run may not.
            is_proved=not counts["trials with a problem"] and (quick or counts["went on"] > 0),
            control=f"{n_naive} naive loops, two decoding processes and h5py append: {n_orphans} "
            f"left orphans, {n_broken} a file that cannot be opened or lacks rows",
            control_failed=n_orphans + n_broken > 0,
        )
    ]


def _commands(folder: Path, images: Path) -> list[Command]:
    trunk = ("--backbone", SMALL_TRUNK, "--weights", "random", "--image-size", "32")
    extraction = ("extract", "--dataset", f"folder:{images}", *trunk, "--batch-size", "16")
    alone, helped = (
        Command(
            f"extract, {n} workers", (*extraction, "--n-workers", str(n)), "--cache-dir", "*.h5"
        )
        for n in (0, 2)
    )
    _wait(_forked(lambda: alone.run(folder / "cache")))
    [cache] = list_caches(folder / "cache")
    training = ("--cache", str(cache.path), "--patience", "0", "--max-epochs", "12")
    return [
        alone,
        helped,
        Command("train-head", ("train-head", *training), "--runs-dir", "head.safetensors"),
        Command(
            "sweep",
            ("sweep", *training, "--reg", "none,l2", "--lr", "1e-4,1e-3"),
            "--runs-dir",
            "head.safetensors",
        ),
    ]


def _reference(command: Command, folder: Path) -> tuple[dict[str, bytes], float]:
    """The results of an uninterrupted run, and its seconds."""
    place = folder / "uninterrupted"
    started = time.monotonic()
    if _wait(_forked(lambda: command.run(place))) != 0:
        raise SystemExit(f"{command.name} does not run: {_told(place).read_text()}")
    seconds = time.monotonic() - started
    results = command.bytes_of(place)
    assert results, f"{command.name} left no {command.results}"
    shutil.rmtree(place)
    return results, seconds


def _trial(
    command: Command,
    signals: Sequence[signal.Signals],
    place: Path,
    whole: dict[str, bytes],
    delay_s: float,
    counts: Counter[str],
) -> list[str]:
    """Stop a command, and run it again; returns what was not as it should be."""
    problems = []
    pid = _forked(lambda: command.run(place))
    _wait_for_handlers(pid)
    time.sleep(delay_s)
    send = random.choice((os.kill, os.killpg))  # one process, or as Ctrl-C its whole group
    started = time.monotonic()
    for i, number in enumerate(signals):
        if i:
            time.sleep(random.uniform(0.05, 1.5))
        if _is_running(pid):
            send(pid, number)
    code = _wait(pid, within_s=60)
    seconds = time.monotonic() - started
    n_orphans = len(_of_session(pid))
    if n_orphans:
        time.sleep(1)  # a child may still be about to end
        n_orphans = len(_of_session(pid))
    if code not in (0, 128 + signals[0]):
        problems.append(f"exit code {code} after {delay_s:.2f} s: {_told(place).read_text()}")
    if code == 0 and command.bytes_of(place) != whole:
        problems.append(f"exit code 0, but it was not done after {delay_s:.2f} s")
    if seconds > _EXITS_WITHIN_S:
        problems.append(f"it took {seconds:.1f} s to end")
    if n_orphans:
        problems.append(f"{n_orphans} processes were left behind")
        _kill_session(pid)
    counts["stopped" if code else "done before"] += 1
    counts["orphans"] += n_orphans
    counts["slowest, ms"] = max(counts["slowest, ms"], round(1000 * seconds))
    again = _wait(_forked(lambda: command.run(place)))
    told = _told(place).read_text()
    if again != 0:
        problems.append(f"the same command ended with exit code {again}")
    elif command.bytes_of(place) != whole:
        problems.append("the same command did not lead to the same bytes")
    else:
        counts["identical"] += 1
        counts["went on"] += "resuming" in told or "going on after" in told
    return problems


def _forked(run: Callable[[], None]) -> int:
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


def _wait(pid: int, *, within_s: float = 300) -> int:
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


def _wait_for_handlers(pid: int) -> None:
    """Wait until the command has taken the signals over: from then on it promises something."""
    while _is_running(pid):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        [caught] = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")]
        if caught >> (signal.SIGHUP - 1) & 1:
            return
        time.sleep(0.001)


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def _of_session(pid: int) -> list[int]:
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


def _kill_session(pid: int) -> None:
    for orphan in _of_session(pid):
        os.kill(orphan, signal.SIGKILL)


def _told(folder: Path) -> Path:
    return folder.with_name(folder.name + ".stderr")


def _names(signals: Sequence[signal.Signals]) -> str:
    return signals[0].name + " twice" * (len(signals) > 1)


def _stop_naive(folder: Path, images: Path, *, n_trials: int) -> tuple[int, int, int]:
    """Stop the usual loop; returns (left orphans, broken files, trials)."""
    n_orphans = n_broken = 0
    for i in range(n_trials):
        path = folder / f"naive{i}.h5"
        pid = _forked(lambda path=path: _extract_naively(images, path))
        time.sleep(random.uniform(0.5, 1.5))
        os.kill(pid, _SIGNALS[i % 2][0])
        _wait(pid, within_s=_EXITS_WITHIN_S)
        time.sleep(0.2)
        n_orphans += bool(_of_session(pid))
        _kill_session(pid)
        try:
            with h5py.File(path) as h5:
                n_broken += len(h5["features"]) != int(h5.attrs["n_rows"])
        except (OSError, KeyError, RuntimeError):
            n_broken += 1
    return n_orphans, n_broken, n_trials


def _extract_naively(images: Path, path: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    fork = multiprocessing.get_context("fork")
    todo, done = fork.SimpleQueue(), fork.SimpleQueue()
    for _ in range(2):
        fork.Process(target=_decode_naively, args=(todo, done), daemon=True).start()
    with h5py.File(path, "w") as h5:
        features = h5.create_dataset("features", (0, 64), "f4", maxshape=(None, 64))
        for n_rows, file in enumerate(itertools.cycle(sorted(images.rglob("*.png"))), start=1):
            todo.put(file)
            features.resize(n_rows, axis=0)
            features[-1] = done.get()
            h5.attrs["n_rows"] = n_rows


def _decode_naively(todo: Any, done: Any) -> None:
    while True:
        with Image.open(todo.get()) as image:
            done.put(np.asarray(image.convert("L").resize((8, 8)), np.float32).ravel())


if __name__ == "__main__":
    sys.exit(main("signals", claims))
