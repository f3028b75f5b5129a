"""How fast photos are decoded for a cache, beside a bare Pillow loop on one core.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.decoding [--images N] [--repeats R]

Photos of 500 x 375 become rows of 64 x 64 pixels. The loop opens, converts and resizes them, and
writes nothing. Both take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import featcache

_SIDE, _IN_LOOP = 64, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {0: [], 1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        files = _photos(Path(folder), options.images)
        for _ in range(options.repeats):
            rates[0].append(_bare(files[:_IN_LOOP]))
            for n_workers in (1, 2):
                rates[n_workers].append(_extracted(folder, n_workers))
    bare = statistics.median(rates[0])
    for n_workers, found in rates.items():
        name = f"{n_workers} workers" if n_workers else "bare loop"
        share = statistics.median(found) / bare / max(1, n_workers)
        print(name, sorted(map(round, found)), f"images a second; {share:.2f} of a loop a core")


def _photos(folder: Path, n: int) -> list[Path]:
    rng = np.random.default_rng(0)
    files = []
    for i in range(n):
        place = folder / "train" / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (94, 125, 3), np.uint8)
        Image.fromarray(small).resize((500, 375)).save(place / f"{i}.jpg")
        files.append(place / f"{i}.jpg")
    return files


def _bare(files: list[Path]) -> float:
    started = time.perf_counter()
    for file in files:
        image = Image.open(file).convert("RGB")
        np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    return len(files) / (time.perf_counter() - started)


def _extracted(folder: str, n_workers: int) -> float:
    with tempfile.TemporaryDirectory() as cache_dir:
        result = featcache.extract(
            f"folder:{folder}",
            backbone="pixels",
            image_size=_SIDE,
            cache_dir=cache_dir,
            n_workers=n_workers,
        )
    return result.images_per_s


if __name__ == "__main__":
    main()
