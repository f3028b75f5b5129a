"""How fast rows reach a cache when the backbone costs nothing: VGG16's 25,088 features a row.

    python -m tests.benchmarks.writing [--folder FOLDER] [--rows N] [--repeats R]

The backbone's forward pass is replaced by features that are there already; all else is
`featcache.extract`'s own. Prints rows and MB a second by the wall clock of filling, beside what
`extract` says, and beside a plain write and sync of as many bytes to the same folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import featcache
import featcache.extraction.extract
import featcache.extraction.job
from featcache.backbones.runner import BackboneRunner
from featcache.extraction import run
from featcache.images.splits import ArrayImages, Dataset, Split

N_FEATURES, BATCH_SIZE = 25_088, 64


class FreeRunner(BackboneRunner):
    """A runner whose backbone answers at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        generator = torch.Generator().manual_seed(0)
        ready = torch.rand(self.batch_size, N_FEATURES, generator=generator)
        self.inputs = lambda images: torch.from_numpy(images)  # type: ignore[method-assign]
        self.forward = lambda _: ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--rows", type=int, default=8_192)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    featcache.extraction.opening.load_dataset = lambda *_, **__: _dataset(options.rows)  # type: ignore[attr-defined]
    featcache.extraction.job.BackboneRunner = FreeRunner  # type: ignore[attr-defined]
    figures: dict[str, Any] = {"rows": options.rows, "cores": os.cpu_count()}
    for store_dtype, itemsize in (("float32", 4), ("float16", 2)):
        runs = [_run(options.folder, store_dtype, options.rows) for _ in range(options.repeats)]
        said, wall, cpu = zip(*runs, strict=True)
        nbytes = options.rows * N_FEATURES * itemsize
        plain = [_plain_write_s(options.folder, nbytes) for _ in range(options.repeats)]
        figures[store_dtype] = {
            "rows_per_s": options.rows / statistics.median(wall),
            "mb_per_s": nbytes / 1e6 / statistics.median(wall),
            "seconds": sorted(wall),
            "cpu_seconds": sorted(cpu),
            "extract_says_rows_per_s": statistics.median(said),
            "plain_write_and_sync_mb_per_s": nbytes / 1e6 / statistics.median(plain),
        }
    print(json.dumps(figures, indent=2))


def _run(folder: Path, store_dtype: str, n_rows: int) -> tuple[float, float, float]:
    """Extract once; the rate that `extract` says, and wall and CPU seconds of filling."""
    seconds = []
    fill = run.fill  # type: ignore[attr-defined]

    def timed(*arguments: Any) -> Any:
        started, cpu_before = time.perf_counter(), time.process_time()
        answer = fill(*arguments)
        wall_s = time.perf_counter() - started
        seconds.append((wall_s, time.process_time() - cpu_before))
        return answer

    run.fill = timed  # type: ignore[attr-defined]
    try:
        with tempfile.TemporaryDirectory(dir=folder) as cache_dir:
            result = featcache.extract(
                "digits",
                backbone="vgg16",
                weights="random",
                image_size=32,
                batch_size=BATCH_SIZE,
                store_dtype=store_dtype,
                device="cpu",
                compile="never",
                cache_dir=cache_dir,
            )
    finally:
        run.fill = fill  # type: ignore[attr-defined]
    assert result.n_rows == n_rows, "the rows of another dataset were written"
    return result.images_per_s, *seconds[0]


def _plain_write_s(folder: Path, nbytes: int) -> float:
    piece = np.random.default_rng(0).bytes(8 << 20)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, nbytes)
        started = time.perf_counter()
        for offset in range(0, nbytes, len(piece)):
            os.pwrite(file.fileno(), piece[: nbytes - offset], offset)
        os.fdatasync(file.fileno())
        return time.perf_counter() - started


def _dataset(n: int) -> Dataset:
    splits = {}
    for name, size in (("train", n - n // 4), ("test", n // 4)):
        images = np.random.default_rng(0).integers(0, 256, (size, 32, 32, 3), np.uint8)
        ids = [str(i) for i in range(size)]
        splits[name] = Split(name, ArrayImages(images), np.arange(size) % 10, ids)
    names = tuple(f"class{i}" for i in range(10))
    return Dataset(name="noise", splits=splits, class_names=names, slug="noise")


if __name__ == "__main__":
    main()
