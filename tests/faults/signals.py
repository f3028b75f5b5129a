"""Stop real commands by signals at random moments, and look what is left of them.

    python -m tests.faults.signals [--quick] [--out FILE.json]

Each command is the command line itself, in a process forked from one that has imported torch
already, and leads a session of its own. A signal counts as lost when the command ends well after
it; one that came when all was done does not. The negative controls are the usual loop, decoding
processes that wait for work and rows appended with h5py, and a handler that raises.
"""

from __future__ import annotations

import importlib
import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.store import list_caches
from featcache_cli.app import main as featcache_main
from tests.conftest import SMALL_BACKBONE, save_image
from tests.faults.claims import Claim, main
from tests.faults.lostsignals import code_under_strace, judged, stopped_in_fork, timed
from tests.faults.naiveloop import fork_and_go_on, stop_naive
from tests.faults.sessions import (
    forked,
    is_running,
    kill_session,
    of_session,
    wait,
    wait_for_handlers,
)

_EXITS_WITHIN_S, _AS_A_RULE_S = 10, 2
_SIGTERMED = 128 + signal.SIGTERM
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
        timed(featcache_main, folder)

    def bytes_of(self, folder: Path) -> dict[str, bytes]:
        """Its results, by their place in the folder."""
        files = sorted(folder.rglob(self.results))
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Stop every command by every signal, and the naive loop too."""
    random.seed(0)
    importlib.import_module(
        "featcache.training.sweeps.sweep"
    )  # with torch: once, not in each process
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
    helped = commands[1]
    in_fork = [stopped_in_fork(helped.run, folder / f"fork{i}") for i in range(1 if quick else 4)]
    by_strace = None if quick else _under_strace(helped, folder)
    n_naive = 2 if quick else 8
    n_orphans, n_broken = stop_naive(folder, images, n_trials=n_naive)
    naive = stopped_in_fork(fork_and_go_on, folder / "naive-fork")
    n_ended, n_fast = counts["stopped"], counts["answered as a rule"]
    return [
        Claim(
            7,
            f"{len(chosen)} signals ({', '.join(map(_names, _SIGNALS))}) at random moments of "
            f"{', '.join(command.name for command in references)}: {n_ended} ended the "
            f"command, with its exit code, {counts['lost']} were lost, {counts['done before']} "
            f"came when all was done; {n_fast} of {n_ended} ends within {_AS_A_RULE_S} s, the "
            f"slowest {counts['slowest, ms'] / 1000:.1f} s; {counts['orphans']} orphans; "
            f"{counts['identical']}/{len(chosen)} byte-identical after the same command again, "
            f"{counts['went on']} of which went on with what was kept; SIGTERM in a hook of the "
            f"first fork: exits {[one.code for one in in_fork]}, with its clone under strace: "
            f"{'not tried' if by_strace is None else by_strace}",
            # Four moments may all come before anything is kept; the many of a full run may not.
            is_proved=not counts["trials with a problem"]
            and (quick or counts["went on"] > 0)
            and all(one.code == _SIGTERMED and not one.was_lost for one in in_fork)
            and by_strace in (None, _SIGTERMED),
            control=f"{n_naive} naive loops, two decoding processes and h5py append: {n_orphans} "
            f"left orphans, {n_broken} a file that cannot be opened or lacks rows; a handler that "
            f"raises, in a hook of fork: exit {naive.code}, "
            f"{'lost' if naive.was_lost else 'not lost'}",
            control_failed=n_orphans + n_broken > 0 and naive.was_lost,
        )
    ]


def _commands(folder: Path, images: Path) -> list[Command]:
    backbone = ("--backbone", SMALL_BACKBONE, "--weights", "random", "--image-size", "32")
    extraction = ("extract", "--dataset", f"folder:{images}", *backbone, "--batch-size", "16")
    alone, helped = (
        Command(
            f"extract, {n} workers", (*extraction, "--n-workers", str(n)), "--cache-dir", "*.h5"
        )
        for n in (0, 2)
    )
    wait(forked(lambda: alone.run(folder / "cache")))
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
    if wait(forked(lambda: command.run(place))) != 0:
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
    pid = forked(lambda: command.run(place))
    wait_for_handlers(pid)
    time.sleep(delay_s)
    send = random.choice((os.kill, os.killpg))  # one process, or as Ctrl-C its whole group
    started = time.monotonic()
    for i, number in enumerate(signals):
        if i:
            time.sleep(random.uniform(0.05, 1.5))
        if is_running(pid):
            send(pid, number)
    code = wait(pid, within_s=60)
    seconds = time.monotonic() - started
    n_orphans = len(of_session(pid))
    if n_orphans:
        time.sleep(1)  # a child may still be about to end
        n_orphans = len(of_session(pid))
    if code not in (0, 128 + signals[0]):
        problems.append(f"exit code {code} after {delay_s:.2f} s: {_told(place).read_text()}")
    was_lost = judged(code, place, sent_s=started).was_lost
    if was_lost:
        problems.append(f"the signal was lost after {delay_s:.2f} s")
    elif code == 0 and command.bytes_of(place) != whole:
        problems.append(f"exit code 0, but it was not done after {delay_s:.2f} s")
    if seconds > _EXITS_WITHIN_S:
        problems.append(f"it took {seconds:.1f} s to end")
    if n_orphans:
        problems.append(f"{n_orphans} processes were left behind")
        kill_session(pid)
    counts["lost" if was_lost else "stopped" if code else "done before"] += 1
    counts["answered as a rule"] += bool(code) and seconds <= _AS_A_RULE_S
    counts["orphans"] += n_orphans
    counts["slowest, ms"] = max(counts["slowest, ms"], round(1000 * seconds))
    again = wait(forked(lambda: command.run(place)))
    told = _told(place).read_text()
    if again != 0:
        problems.append(f"the same command ended with exit code {again}")
    elif command.bytes_of(place) != whole:
        problems.append("the same command did not lead to the same bytes")
    else:
        counts["identical"] += 1
        counts["went on"] += "resuming" in told or "going on after" in told
    return problems


def _under_strace(command: Command, folder: Path) -> int | None:
    place = str(folder / "traced")
    return code_under_strace([*command.arguments, command.folder_option, place])


def _told(folder: Path) -> Path:
    return folder.with_name(folder.name + ".stderr")


def _names(signals: Sequence[signal.Signals]) -> str:
    return signals[0].name + " twice" * (len(signals) > 1)


if __name__ == "__main__":
    sys.exit(main("signals", claims))
