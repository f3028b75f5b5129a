"""SIGKILL real extractions at random moments, resume each, and compare every byte (claim 1).

Each extraction is the command line itself, in a process forked from one that has imported torch
already. It tells over a pipe which ledger slots `commit` has acknowledged. After the kill these
must still be there, and the resumed file must be byte-identical to one that was never interrupted.

The negative control does the same to a naive loop that appends rows with h5py: if its files survive
too, this harness proves nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from featcache.errors import FeatcacheError
from featcache.store import list_caches, read_state
from tests.faults.claims import Claim, main
from tests.faults.command import Command, run_command
from tests.faults.commits import told_commits
from tests.faults.images import TRUNK, small_blocks

_N_IMAGES = {"train": 1500, "test": 350}
_N_CONTROL_KILLS = 10
_until_killed = contextlib.ExitStack()


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Kill extractions through a trunk, and many that store pixels, which take a second each."""
    torch.set_num_threads(1)
    random.seed(0)
    small_blocks(1)
    images = _make_images(folder / "images")
    counts = Counter[str]()
    for backbone, n_kills in (("pixels", 5 if quick else 160), (TRUNK, 0 if quick else 40)):
        if n_kills:
            counts.update(_kill_extractions(folder, images, n_kills, backbone))
    n_lost = _kill_naive(folder)
    n = counts["n_kills"]
    return [
        Claim(
            1,
            f"{n} kills ({counts['n_in_mid_file']} in mid-file): "
            f"{counts['n_acknowledged_rows_lost']} of {counts['n_acknowledged_rows']} acknowledged "
            f"rows lost, {counts['n_byte_identical']}/{n} byte-identical",
            counts["n_byte_identical"] == n
            and counts["n_acknowledged_rows_lost"] == 0
            and counts["n_in_mid_file"] > 0,
            f"naive h5py append: {n_lost} of {_N_CONTROL_KILLS} files lost rows or could not be "
            f"opened",
            n_lost > 0,
        )
    ]


def _make_images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, n_images in _N_IMAGES.items():
        for i in range(n_images):
            path = folder / split / f"class{i % 3}" / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


def _kill_extractions(folder: Path, images: Path, n_kills: int, backbone: str) -> dict[str, int]:
    whole_dir = folder / f"whole-{backbone}"
    started = time.monotonic()
    _extract(images, whole_dir, backbone)
    whole_s = time.monotonic() - started
    [reference] = list_caches(whole_dir)
    whole = reference.path.read_bytes()
    counts = dict.fromkeys(
        ("n_kills", "n_in_mid_file", "n_acknowledged_rows", "n_acknowledged_rows_lost"), 0
    )
    counts["n_byte_identical"] = 0
    for i in range(n_kills):
        cache_dir = folder / f"kill{i}"
        told = _killed_after(random.uniform(0, whole_s), images, cache_dir, backbone)
        n_told, n_lost = _count_acknowledged(cache_dir, told)
        _extract(images, cache_dir, backbone)
        [resumed] = list_caches(cache_dir)
        counts["n_kills"] += 1
        counts["n_in_mid_file"] += 0 < n_told < sum(_N_IMAGES.values())
        counts["n_acknowledged_rows"] += n_told
        counts["n_acknowledged_rows_lost"] += n_lost
        counts["n_byte_identical"] += resumed.path.read_bytes() == whole
        shutil.rmtree(cache_dir)
    return counts


def _killed_after(seconds: float, images: Path, cache_dir: Path, backbone: str) -> set[int]:
    """Kill one extraction; return the ledger slots that it said were acknowledged.

    Every second one, by chance, is killed within the same time of its first acknowledgement, since
    most of a short run is start-up.
    """
    read_end, write_end = os.pipe()
    command = Command(
        _arguments(images, cache_dir, backbone),
        cache_dir.with_suffix(".log"),
        before=lambda: _until_killed.enter_context(
            told_commits(lambda slots: _tell(write_end, slots))
        ),
    )
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        lines = []
        if random.random() < 0.5:
            lines.append(pipe.readline())
            seconds *= random.random() ** 4
        time.sleep(seconds)
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
        return {int(line) for line in [*lines, *pipe] if line.endswith("\n")}


def _count_acknowledged(cache_dir: Path, told: set[int]) -> tuple[int, int]:
    """(acknowledged rows, those of them that the file no longer holds)."""
    if not told:
        return 0, 0
    [cache] = list_caches(cache_dir)
    try:
        state = read_state(cache.path)
    except FeatcacheError:
        return len(told), len(told)
    blocks = [b for b in state.manifest.blocks() if b.slot in told]
    lost = [b for b in blocks if b.slot not in state.slots]
    return sum(b.stop - b.start for b in blocks), sum(b.stop - b.start for b in lost)


def _fork(run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(1)
    return pid


def _arguments(images: Path, cache_dir: Path, backbone: str) -> list[str]:
    asked = ["extract", "--dataset", f"folder:{images}", "--backbone", backbone]
    asked += ["--image-size", "32", "--n-workers", "1", "--cache-dir", str(cache_dir)]
    if backbone != "pixels":
        asked += ["--weights", "random", "--batch-size", "32"]
    return asked


def _extract(images: Path, cache_dir: Path, backbone: str) -> None:
    ended = run_command(_arguments(images, cache_dir, backbone), cache_dir.with_suffix(".log"))
    if ended.code:
        raise SystemExit(f"an uninterrupted extraction ended with {ended.code}: {ended.text}")


def _tell(pipe: int, slots: set[int]) -> None:
    os.write(pipe, "".join(f"{slot}\n" for slot in slots).encode())


def _kill_naive(folder: Path) -> int:
    """Kill the usual loop, which appends to a resizable dataset, and look what is left."""
    n_lost = 0
    for i in range(_N_CONTROL_KILLS):
        path = folder / f"naive{i}.h5"
        read_end, write_end = os.pipe()
        pid = _fork(lambda path=path, pipe=write_end: _append_naively(path, pipe))
        os.close(write_end)
        time.sleep(random.uniform(0.3, 1.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with os.fdopen(read_end) as pipe:
            n_said = sum(int(line) for line in pipe if line.endswith("\n"))
        try:
            with h5py.File(path) as h5:
                features = h5["features"][:]
            n_there = int((features[:, 0] == np.arange(len(features))).sum())
        except (OSError, KeyError, RuntimeError):
            n_there = 0
        n_lost += n_there < n_said
    return n_lost


def _append_naively(path: Path, pipe: int) -> None:
    with h5py.File(path, "w") as h5:
        features = h5.create_dataset("features", (0, 576), "f4", maxshape=(None, 576))
        for start in range(0, 10**9, 32):
            features.resize(start + 32, axis=0)
            features[start : start + 32] = np.arange(start, start + 32, dtype="f4")[:, None]
            os.write(pipe, b"32\n")
            time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main("kills", claims))
