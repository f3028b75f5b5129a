"""Clocks and time zones change nothing in a cache or a head (claim 9)."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import featcache
from tests.faults.claims import Claim, main
from tests.faults.images import extract, make_images, small_blocks

_Y1970, _Y2040 = 10.0, 2_208_988_800.0


@small_blocks()
def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Make a cache and a head under each clock, and compare their bytes."""
    images = make_images(folder / "images", n_train=60, n_test=20)
    backwards = itertools.count(_Y2040, -1000.0)
    clocks: dict[str, Callable[[], float]] = {
        "1970": lambda: _Y1970,
        "2040": lambda: _Y2040,
        "backwards": lambda: next(backwards),
    }
    zones = ("UTC", "Pacific/Kiritimati", "America/St_Johns")
    reference = _made(folder / "now", images)
    trials = [(name, clock, "UTC") for name, clock in clocks.items()]
    trials += [(zone, time.time, zone) for zone in zones[1:]]
    n_same = 0
    for name, clock, zone in trials:
        with _clock(clock), _zone(zone):
            stamp = _Y1970 if name == "1970" else _Y2040
            for path in images.rglob("*.png"):
                os.utime(path, (stamp, stamp))
            n_same += _made(folder / name.replace("/", "-"), images) == reference
    return [
        Claim(
            9,
            f"clock in 1970, in 2040, running backwards, two other time zones, images stamped "
            f"alike: {n_same} of {len(trials)} caches and heads byte-identical",
            n_same == len(trials),
            *_naive(),
        )
    ]


def _made(folder: Path, images: Path) -> tuple[bytes, bytes]:
    cache = extract(images, folder / "cache", backbone="pixels", image_size=16).path
    trained = featcache.train_head(cache, hidden=(4,), max_epochs=2, runs_dir=folder / "runs")
    return cache.read_bytes(), _weights(trained.runs[0].path)


def _weights(path: Path) -> bytes:
    """All tensors of a head: its description names the folder of the cache, which differs here."""
    state = featcache.load_head(path).state
    return b"".join(name.encode() + t.numpy().tobytes() for name, t in sorted(state.items()))


@contextlib.contextmanager
def _clock(clock: Callable[[], float]) -> Iterator[None]:
    with (
        mock.patch("time.time", clock),
        mock.patch("time.time_ns", side_effect=lambda: int(clock() * 1e9)),
    ):
        yield


@contextlib.contextmanager
def _zone(zone: str) -> Iterator[None]:
    with mock.patch.dict(os.environ, {"TZ": zone}):
        time.tzset()
        yield
    time.tzset()


def _naive() -> tuple[str, bool]:
    """A manifest that says when it was made, as most do."""
    stamps = set()
    for clock in (_Y1970, _Y2040):
        with _clock(lambda clock=clock: clock):  # type: ignore[misc]
            stamps.add(time.strftime("%Y-%m-%d", time.gmtime(time.time())))
    return f"a date of making in the file: {len(stamps)} different files of 2", len(stamps) > 1


if __name__ == "__main__":
    sys.exit(main("clock", claims))
