"""The usual loop: decoding processes that wait for work, and rows appended with h5py."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from tests.faults.sessions import forked, kill_session, of_session, wait

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_naive(folder: Path, images: Path, *, n_trials: int) -> tuple[int, int]:
    """Stop it `n_trials` times; returns (left orphans, broken files)."""
    n_orphans = n_broken = 0
    for i in range(n_trials):
        path = folder / f"naive{i}.h5"
        pid = forked(lambda path=path: _extract_naively(images, path))
        time.sleep(random.uniform(0.5, 1.5))
        os.kill(pid, _SIGNALS[i % 2])
        wait(pid, within_s=10)
        time.sleep(0.2)
        n_orphans += bool(of_session(pid))
        kill_session(pid)
        try:
            with h5py.File(path) as h5:
                n_broken += len(h5["features"]) != int(h5.attrs["n_rows"])
        except (OSError, KeyError, RuntimeError):
            n_broken += 1
    return n_orphans, n_broken


def fork_and_go_on(_: Path) -> None:
    """Start a process, as a loop does whose handler raises, and work on for half a second."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    signal.signal(signal.SIGTERM, stop)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # "Exception ignored in"
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.5)


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
