"""Extract, train, evaluate, verify and remove in one process for a long time; see what grows.

    python -m tests.faults.soak [--minutes 30] [--quick] [--out FILE.json]

The negative control is the same rounds with a leak made on purpose: rows that a list keeps, a
descriptor that stays open, a temporary file that stays behind.
"""

from __future__ import annotations

import argparse
import functools
import gc
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from unittest import mock

import numpy as np

import featcache
from tests.conftest import SMALL_BACKBONE, save_image
from tests.faults.claims import Claim, main

_WARM_UP = 0.2
_MIN_ROUNDS = 6
_TOLERANCE_KIB = 128.0
_MAX_SHARE = 0.05
_N_CONTROL_ROUNDS = 6
_LEAK_BYTES = 2 << 20


@dataclass(frozen=True)
class Footprint:
    """What this process holds between two rounds.

    Attributes:
        memory_kib: Resident set.
        descriptors: Open files, pipes, sockets.
        threads: Threads.
        children: Child processes, zombies among them.
        files: Files in TMPDIR and in the folders of caches and runs.
    """

    memory_kib: float
    descriptors: int
    threads: int
    children: int
    files: int

    @classmethod
    def of_now(cls, folders: Sequence[Path]) -> Footprint:
        """Take it, after the garbage."""
        gc.collect()
        tasks = list(Path("/proc/self/task").iterdir())
        n_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            memory_kib=n_pages * os.sysconf("SC_PAGE_SIZE") / 1024,
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            threads=len(tasks),
            children=sum(len((task / "children").read_text().split()) for task in tasks),
            files=sum(path.is_file() for folder in folders for path in folder.rglob("*")),
        )


@dataclass(frozen=True)
class Growth:
    """What changed over the rounds after the warm-up.

    Attributes:
        n_rounds: Rounds, of the warm-up too.
        kib_per_round: Slope of a straight line through the memory of each round.
        error_kib: Its standard error.
        share: What the line gained, as a share of the memory at its start.
        counts: By name, how much higher a count is in the last round than in the first.
    """

    n_rounds: int
    kib_per_round: float
    error_kib: float
    share: float
    counts: dict[str, int]

    @classmethod
    def over(cls, footprints: Sequence[Footprint]) -> Growth:
        """Fit it."""
        watched = footprints[max(2, round(_WARM_UP * len(footprints))) :]
        memory = np.array([footprint.memory_kib for footprint in watched])
        (slope, start), covariance = np.polyfit(np.arange(len(memory)), memory, 1, cov=True)
        names = [field.name for field in fields(Footprint) if field.name != "memory_kib"]
        first, last = watched[0], watched[-1]
        return cls(
            n_rounds=len(footprints),
            kib_per_round=float(slope),
            error_kib=float(np.sqrt(covariance[0, 0])),
            share=float(slope * (len(memory) - 1) / start),
            counts={name: getattr(last, name) - getattr(first, name) for name in names},
        )

    @property
    def grows_in_memory(self) -> bool:
        """Whether the line rises beyond doubt by more than is tolerated, or too far in all."""
        is_steep = self.kib_per_round - 2 * self.error_kib > _TOLERANCE_KIB
        return is_steep or self.share > _MAX_SHARE

    @property
    def grown_counts(self) -> list[str]:
        """Names of what became more."""
        return [name for name, more in self.counts.items() if more > 0]

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {more:+d}" for name, more in self.counts.items())
        return (
            f"{self.n_rounds} rounds: memory {self.kib_per_round:+.1f} KiB a round (standard error "
            f"{self.error_kib:.1f}; {self.share:+.1%} in all), {counts}"
        )


def claims(folder: Path, *, quick: bool, minutes: float = 30) -> list[Claim]:
    """Soak for some minutes, quick for some seconds, and once more with leaks."""
    images = folder / "pets"
    for i in range(48):
        split = "test" if i % 4 == 0 else "train"
        save_image(images / split / ("cat" if i % 2 else "dog") / f"{i:02d}.png", i)
    temporary = folder / "tmp"
    temporary.mkdir()
    with mock.patch.dict(os.environ, TMPDIR=str(temporary)), mock.patch("tempfile.tempdir", None):
        seconds = 4 if quick else 60 * minutes
        sound = _soak(folder, images, temporary, seconds=seconds)
        kept: list[object] = []
        leaking = _soak(
            folder,
            images,
            temporary,
            seconds=0,
            leak=lambda: _leak(kept),
            n_rounds=_N_CONTROL_ROUNDS,
        )
    seen = ["memory"] * leaking.grows_in_memory + leaking.grown_counts
    return [
        Claim(
            20,
            f"{seconds / 60:.1f} minutes of extract, train-head, eval, verify, rm in one process, "
            f"{sound}; tolerated: {_TOLERANCE_KIB:.0f} KiB a round and {_MAX_SHARE:.0%} in all",
            is_proved=not sound.grows_in_memory and not sound.grown_counts,
            control=f"with leaks, {leaking}; seen: {', '.join(seen)}",
            control_failed={"memory", "descriptors", "files"} <= set(seen),
        )
    ]


def _soak(
    folder: Path,
    images: Path,
    temporary: Path,
    *,
    seconds: float,
    n_rounds: int = _MIN_ROUNDS,
    leak: Callable[[], None] | None = None,
) -> Growth:
    """Go round for so many seconds, and so many times at least."""
    place = folder / "place"
    place.mkdir()
    footprints: list[Footprint] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(footprints) < n_rounds:
        _go_round(images, place)
        if leak is not None:
            leak()
        footprints.append(Footprint.of_now([place, temporary]))
    shutil.rmtree(place)
    return Growth.over(footprints)


def _go_round(images: Path, place: Path) -> None:
    """Make two caches and a head, use them, and take them away."""
    caches = [
        featcache.extract(
            f"folder:{images}",
            backbone=backbone,
            weights=weights,
            image_size=32,
            batch_size=16,
            n_workers=2,
            cache_dir=place / "cache",
        ).path
        for backbone, weights in (("pixels", "DEFAULT"), (SMALL_BACKBONE, "random"))
    ]
    for path in caches:
        run = featcache.train_head(path, hidden=(8,), max_epochs=2, runs_dir=place / "runs").path
        featcache.evaluate(run, draws=50, cache_dir=place / "cache", runs_dir=place / "runs")
        assert featcache.verify_cache(path).is_sound
        featcache.remove_cache(path)
        shutil.rmtree(run)


def _leak(kept: list[object]) -> None:
    """Keep rows, a descriptor and a temporary file: what no run should."""
    pages = mmap.mmap(-1, _LEAK_BYTES)  # of the system's: the heap may have room of old for it
    pages.write(b"\1" * _LEAK_BYTES)
    kept.append(pages)
    kept.append(os.open(os.devnull, os.O_RDONLY))
    descriptor, _ = tempfile.mkstemp()
    os.close(descriptor)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--minutes", type=float, default=30)
    own, sys.argv[1:] = parser.parse_known_args()
    sys.exit(main("soak", functools.partial(claims, minutes=own.minutes)))
