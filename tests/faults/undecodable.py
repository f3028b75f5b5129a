"""Images that stop or hold a machine, and decoding processes that die (claim 24)."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image

import featcache
from featcache.errors import DeviceError
from featcache.images import decode_batches, decode_process
from featcache.images.decode import decode_image
from featcache.images.rules import ImageRules
from featcache.images.splits import UnreadableImageError
from tests.faults.bombs import many_scans
from tests.faults.claims import Claim, main
from tests.faults.images import extract, make_images, small_blocks

_LARGEST = 13_300  # a side; its square is just below the default limit
_ROOM = 60 << 20


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Kill decoding processes at random, starve and hold them, and give them bombs."""
    # In a process that has no freed memory of earlier work: a decoder would inherit it as room.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        kills = fresh.submit(_killed, folder / "killed", 3 if quick else 60).result()
        names = ["no memory"] if quick else list(_CASES)
        held = {name: fresh.submit(_held, folder / name, name).result() for name in names}
    n_refused = sum(_is_refused(side, 101) for side in (16, 1000, _LARGEST))
    most_s = 0.0 if quick else _cpu_seconds(many_scans(_LARGEST, 100))
    control = _naive_pool()
    told = ", ".join(f"{name}: {end}" for name, end in held.items())
    return [
        Claim(
            24,
            f"{len(kills)} runs whose decoding processes were killed at random: "
            f"{kills.count(True)} files byte-identical; an image that no process can decode "
            f"({told}); {n_refused} of 3 JPEGs of 101 scans refused, one of 100 and 177 million "
            f"pixels takes {most_s:.0f} CPU seconds",
            all(kills)
            and set(held.values()) == {_AS_PROMISED}
            and n_refused == 3
            and most_s < decode_process.CPU_SECONDS_PER_IMAGE / 2,
            f"a ProcessPoolExecutor whose worker is killed: {control}",
            control == "all batches lost, no file named",
        )
    ]


_AS_PROMISED = "exit 16 with its name, marked on demand, then computed by repair"


def _killed(folder: Path, n_runs: int) -> list[bool]:
    """Kill up to three workers of each run, at random moments; then run again to the end."""
    rng = random.Random(0)
    images = make_images(folder / "images", n_train=320, n_test=32, side=64)
    whole = _extract(images, folder / "whole", n_workers=0).path.read_bytes()
    ends = []
    for i in range(n_runs):
        cache_dir = folder / "trial"
        shutil.rmtree(cache_dir, ignore_errors=True)
        is_named = True
        with _killer(rng, n_kills=1 + i % 3):
            try:
                _extract(images, cache_dir, n_workers=2)
            except DeviceError as err:  # killed when alone, too
                is_named = "signal 9" in str(err)
        ends.append(is_named and _extract(images, cache_dir).path.read_bytes() == whole)
    return ends


@contextmanager
def _killer(rng: random.Random, *, n_kills: int) -> Iterator[None]:
    is_over = threading.Event()
    delays = [rng.uniform(0.005, 0.1) for _ in range(n_kills)]

    def kill() -> None:
        for delay in delays:
            is_over.wait(delay)
            for child in multiprocessing.active_children():
                if child.pid is not None and child.name.startswith("featcache-decoder"):
                    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                        os.kill(child.pid, signal.SIGKILL)
                    break

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def _little_memory() -> Iterator[None]:
    """Give each decoding process 60 MiB beside what it has from its parent."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + _ROOM
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))

    with mock.patch.object(decode_process, "forget_other_threads", limit):
        yield


@contextmanager
def _little_time() -> Iterator[None]:
    with mock.patch.object(decode_process, "CPU_SECONDS_PER_IMAGE", 0.05):
        yield


@contextmanager
def _killed_at_it() -> Iterator[None]:
    """Kill the process that meets the image, as the kernel does where memory is short."""
    decode = decode_batches.Decoder._decode

    def deadly(decoder: Any, row: int, *others: Any) -> Any:
        if decoder.images.path_of(row).endswith("hard.jpg"):
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(decoder, row, *others)

    with mock.patch.object(decode_batches.Decoder, "_decode", deadly):
        yield


def _huge() -> bytes:
    return many_scans(6000, 1)


def _slow() -> bytes:
    return many_scans(4000, 100)


_CASES: dict[str, tuple[Callable[[], bytes], Callable[[], Any]]] = {
    "no memory": (_huge, _little_memory),
    "no time": (_slow, _little_time),
    "killed": (_slow, _killed_at_it),
}


def _held(folder: Path, name: str) -> str:
    """Meet one image on a machine that cannot decode it, then on one that can."""
    content, machine = _CASES[name]
    images = make_images(folder / "images", n_train=48, n_test=16)
    (images / "train" / "cat" / "hard.jpg").write_bytes(content())
    with machine():
        try:
            _extract(images, folder / "cache", n_workers=2)
            return "not noticed"
        except DeviceError as err:
            if "hard.jpg" not in str(err) or err.exit_code != 16:
                return f"not named: {err}"
        result = _extract(images, folder / "cache", n_workers=2, skip_undecodable=True)
        reasons = [failure.reason for failure in result.failures]
    if len(reasons) != 1 or not reasons[0].startswith("not decoded here: "):
        return f"marked {reasons}"
    featcache.repair_cache(result.path, n_workers=2)
    whole = _extract(images, folder / "whole")
    is_same = result.path.read_bytes() == whole.path.read_bytes()
    return _AS_PROMISED if is_same and not whole.failures else "not repaired"


def _is_refused(side: int, n_scans: int) -> bool:
    try:
        decode_image(io.BytesIO(many_scans(side, n_scans)), ImageRules())
    except UnreadableImageError as err:
        return f"{n_scans} scans" in str(err)
    return False


def _cpu_seconds(content: bytes) -> float:
    started = time.process_time()
    decode_image(io.BytesIO(content), ImageRules())
    return time.process_time() - started


def _naive_pool() -> str:
    """What the standard library's pool makes of a worker that is killed."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        futures = [pool.submit(_decode_or_die, row) for row in range(8)]
        errors = [future.exception() for future in futures]
    lost = [error for error in errors[3:] if isinstance(error, BrokenProcessPool)]
    return "all batches lost, no file named" if len(lost) == 5 else "went on"


def _decode_or_die(row: int) -> None:
    if row == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    Image.open(io.BytesIO(many_scans(16, 2))).load()


def _extract(images: Path, cache_dir: Path, **options: Any) -> featcache.ExtractResult:
    with small_blocks(pixels_batch_size=16):
        return extract(images, cache_dir, backbone="pixels", image_size=16, **options)


if __name__ == "__main__":
    sys.exit(main("undecodable", claims))
