"""Eight writers of one cache: one wins, the others say so, the file is right (claim 6)."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache.store import list_caches, locked
from tests.faults.claims import Claim, main
from tests.faults.command import Command, extract_arguments, run_command
from tests.faults.images import extract, make_images, small_blocks

_N_WRITERS = 8


@small_blocks()
def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Start eight commands at once, again and again; leave locks behind; have none at all."""
    images = make_images(folder / "images", n_train=150, n_test=50)
    whole = extract(images, folder / "whole", backbone="pixels", image_size=16).path
    content = whole.read_bytes()
    n_rounds = 4 if quick else 50
    counts = Counter[str]()
    for i in range(n_rounds):
        counts.update(_round(folder / f"round{i}", images, content))
    is_taken = _lock_of_a_dead_process(folder / "dead", images, content)
    without = [
        _without_locks(folder / name, images, getattr(errno, name))
        for name in ("ENOSYS", "ENOLCK", "EOPNOTSUPP")
    ]
    n_wrong = _naive(folder)
    n_others = n_rounds * (_N_WRITERS - 1)
    return [
        Claim(
            6,
            f"{n_rounds} rounds of {_N_WRITERS} writers: {counts['computed']} winners, "
            f"{counts['refused']} times exit 11 and {counts['reused']} that came when it was "
            f"complete (of {n_others}), {counts['right']} files right; a dead process's lock is "
            f"{'taken' if is_taken else 'NOT taken'}; {sum(without)} of {len(without)} kinds of "
            f"file systems without locks refused with the reason",
            counts["computed"] == counts["right"] == n_rounds
            and counts["refused"] + counts["reused"] == n_others
            and counts["refused"] > 0
            and is_taken
            and all(without),
            f"two naive h5py writers of one file: {n_wrong} of 5 files wrong or an error",
            n_wrong > 0,
        )
    ]


def _round(cache: Path, images: Path, content: bytes) -> Counter[str]:
    """Start the writers behind one gate."""
    cache.mkdir()
    gate, opener = os.pipe()

    def wait() -> None:
        os.close(opener)
        os.read(gate, 1)

    arguments = extract_arguments(images, cache / "cache", side=16)
    writers = [Command(arguments, cache / f"log{i}", before=wait) for i in range(_N_WRITERS)]
    os.close(gate)
    os.close(opener)
    ended = [writer.wait() for writer in writers]
    counts = Counter[str]()
    for one in ended:
        if one.code == 11 and one.is_clean and "is being written by" in one.text:
            counts["refused"] += 1
        elif one.code == 0:
            counts[one.text.split("\n")[-1].split(" ")[0] or _outcome(one.text)] += 1
        else:
            print(f"exit {one.code}: {one.text[-300:]}", file=sys.stderr)
    counts["right"] = int(list_caches(cache / "cache")[0].path.read_bytes() == content)
    shutil.rmtree(cache)
    return counts


def _outcome(text: str) -> str:
    return next((w for w in ("computed", "resumed", "reused") if f"\n{w} " in f"\n{text}"), "other")


def _lock_of_a_dead_process(cache: Path, images: Path, content: bytes) -> bool:
    arguments = extract_arguments(images, cache, side=16)
    path = cache / "folder-images" / "x.h5"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        path = extract(images, cache, backbone="pixels", image_size=16).path
        path.unlink()
        with locked(path):
            os.write(writing, os.fsencode(path))
            signal.pause()
    name = os.fsdecode(os.read(reading, 4096))
    held = run_command(arguments, cache.with_suffix(".held"))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ended = run_command(arguments, cache.with_suffix(".log"))
    is_right = ended.code == 0 and Path(name).read_bytes() == content
    return held.code == 11 and is_right


def _without_locks(cache: Path, images: Path, number: int) -> bool:
    """Have a file system whose flock fails: a clear refusal, and nothing is written."""

    def refuse() -> None:
        import fcntl

        def flock(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        fcntl.flock = flock

    ended = run_command(
        extract_arguments(images, cache, side=16), cache.with_suffix(".log"), before=refuse
    )
    is_refused = ended.code == 1 and "has no file locks" in ended.text and not list_caches(cache)
    if not (ended.is_clean and is_refused):
        print(f"without locks: exit {ended.code}: {ended.text[-400:]}", file=sys.stderr)
    return ended.is_clean and is_refused


def _naive(folder: Path) -> int:
    """Two processes write the halves of one file, without a lock of their own."""
    return sum(_naive_pair(folder / f"naive{i}.h5") for i in range(5))


def _naive_pair(path: Path) -> bool:
    both_opened = multiprocessing.get_context("fork").Barrier(2)

    def write(value: int) -> Callable[[], None]:
        def run() -> None:
            with h5py.File(path, "a", locking=False) as h5:
                both_opened.wait(timeout=10)
                for i in range(50):
                    h5[f"{value}/{i}"] = np.full(1000, value)

        return run

    pids = []
    for value in (1, 2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                write(value)()
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    try:
        with h5py.File(path) as h5:
            is_right = all((h5[f"{v}/{i}"][:] == v).all() for v in (1, 2) for i in range(50))
    except (OSError, KeyError, RuntimeError):
        is_right = False
    return bool(any(codes) or not is_right)


if __name__ == "__main__":
    sys.exit(main("locks", claims))
