"""SIGKILL real extractions at random moments, resume each, and compare every byte (claim 1).

Each extraction is the command line itself, in a process forked from one that has imported torch
already. It tells over a pipe which ledger slots `commit` has acknowledged. After the kill these
must still be there, and the resumed file must be byte-identical to one that was never interrupted.
Two lanes share the kills, since an extraction of a fraction of a second mostly waits for `fsync`.

The negative control does the same to a naive loop that appends rows with h5py: if its files survive
too, this harness proves nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from featcache.errors import FeatcacheError
from featcache.extraction import opening
from featcache.images.splits import Dataset
from featcache.store import list_caches, read_state
from tests.benchmarks.bench import one_split
from tests.faults.claims import Claim, main
from tests.faults.command import Command, run_command
from tests.faults.commits import told_commits
from tests.faults.images import BACKBONE, make_images, small_blocks
from tests.images.containers import CONTAINERS, files_below

_N_CONTROL_KILLS = 10
_N_LANES = 2
_until_killed = contextlib.ExitStack()


@dataclass(frozen=True)
class _Extraction:
    """What is extracted, and how.

    Attributes:
        name: For the report.
        n_rows: Of all splits.
        n_kills: How often it is killed, in a quick run and in a full one.
        arguments: Of `featcache`, but for the folder of the cache.
    """

    name: str
    n_rows: int
    n_kills: tuple[int, int]
    arguments: Sequence[str]


@small_blocks()
def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Kill extractions of image files, and many that take a fraction of a second."""
    torch.set_num_threads(1)
    random.seed(0)
    lines, is_proved = [], True
    for extraction in _extractions(folder):
        n = extraction.n_kills[0 if quick else 1]
        if n == 0:
            continue
        counts = _kill_in_lanes(folder, extraction, n)
        lines.append(
            f"{n} kills, {extraction.name} ({counts['n_in_mid_file']} in mid-file): "
            f"{counts['n_acknowledged_rows_lost']} of {counts['n_acknowledged_rows']} acknowledged "
            f"rows lost, {counts['n_byte_identical']}/{n} byte-identical"
        )
        is_proved &= counts["n_byte_identical"] == n and counts["n_acknowledged_rows_lost"] == 0
        is_proved &= counts["n_in_mid_file"] > 0
    n_lost = _kill_naive(folder)
    return [
        Claim(
            1,
            "; ".join(lines),
            is_proved,
            f"naive h5py append: {n_lost} of {_N_CONTROL_KILLS} files lost rows or could not be "
            f"opened",
            n_lost > 0,
        )
    ]


def _extractions(folder: Path) -> list[_Extraction]:
    images = make_images(folder / "images", n_train=1500, n_test=350, side=32)
    files = ["--dataset", f"folder:{images}", "--image-size", "32", "--n-workers", "1"]
    pixels = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)
    loads = opening.load_dataset  # type: ignore[attr-defined]

    def load_dataset(name: str, **options: Any) -> Dataset:
        return one_split(pixels) if name == "cifar10" else loads(name, **options)

    # 200 images that are in memory
    opening.load_dataset = load_dataset  # type: ignore[attr-defined]
    few = ["--dataset", "cifar10", "--image-size", "32", "--batch-size", "16"]
    backbone = ["--weights", "random", "--backbone"]
    return [
        _Extraction("files to pixels", 1850, (5, 100), [*files, "--backbone", "pixels"]),
        *(
            _Extraction(f"{name} to pixels", 1850, (5, 50), [*options, "--backbone", "pixels"])
            for name, options in _contained(images, folder).items()
        ),
        _Extraction(
            "files through a backbone",
            1850,
            (0, 100),
            [*files, "--batch-size", "32", *backbone, BACKBONE],
        ),
        _Extraction("a light backbone", 200, (20, 2000), [*few, *backbone, "squeezenet1_1"]),
    ]


def _contained(images: Path, folder: Path) -> dict[str, list[str]]:
    """Put the images into containers; their rows are read out of these in the midst of a kill."""
    found = {}
    for name in ("list", "zip", "tar", "WebDataset", "Parquet"):
        place = folder / name
        place.mkdir()
        dataset = CONTAINERS[name](files_below(images), place)
        found[name] = ["--dataset", dataset, "--image-size", "32", "--n-workers", "1"]
    return found


def _kill_in_lanes(folder: Path, extraction: _Extraction, n_kills: int) -> Counter[str]:
    shares = [n_kills // _N_LANES + (i < n_kills % _N_LANES) for i in range(_N_LANES)]
    folders = [folder / f"lane{i}, {extraction.name}" for i in range(_N_LANES)]
    context = multiprocessing.get_context("fork")  # with all that was imported and made
    with ProcessPoolExecutor(_N_LANES, mp_context=context) as lanes:
        found = lanes.map(_kill_extractions, folders, [extraction] * _N_LANES, shares)
        return sum(found, Counter[str]())


def _kill_extractions(folder: Path, extraction: _Extraction, n_kills: int) -> Counter[str]:
    random.seed(folder.name)
    folder.mkdir()
    whole_dir = folder / "whole"
    started = time.monotonic()
    _extract(extraction, whole_dir)
    whole_s = time.monotonic() - started
    [reference] = list_caches(whole_dir)
    whole = reference.path.read_bytes()
    counts = Counter[str]()
    for i in range(n_kills):
        cache_dir = folder / f"kill{i}"
        told = _killed_after(random.uniform(0, whole_s), extraction, cache_dir)
        n_told, n_lost = _count_acknowledged(cache_dir, told)
        _extract(extraction, cache_dir)
        [resumed] = list_caches(cache_dir)
        counts["n_in_mid_file"] += 0 < n_told < extraction.n_rows
        counts["n_acknowledged_rows"] += n_told
        counts["n_acknowledged_rows_lost"] += n_lost
        counts["n_byte_identical"] += resumed.path.read_bytes() == whole
        shutil.rmtree(cache_dir)
    return counts


def _killed_after(seconds: float, extraction: _Extraction, cache_dir: Path) -> set[int]:
    """Kill one extraction; return the ledger slots that it said were acknowledged.

    Every second one, by chance, is killed within the same time of its first acknowledgement, since
    most of a short run is start-up.
    """
    read_end, write_end = os.pipe()
    command = Command(
        _arguments(extraction, cache_dir),
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


def _arguments(extraction: _Extraction, cache_dir: Path) -> list[str]:
    return ["extract", *extraction.arguments, "--cache-dir", str(cache_dir)]


def _extract(extraction: _Extraction, cache_dir: Path) -> None:
    ended = run_command(_arguments(extraction, cache_dir), cache_dir.with_suffix(".log"))
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
