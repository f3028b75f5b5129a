"""Prediction held against evaluation and extraction: the same answers, about the same rate.

    python -m tests.benchmarks.predicting OUT.json CACHE --run RUN --data-dir data [--limit N]

CACHE is the one that RUN was trained on; its dataset is read again, of each split N images (all).
Four things are measured. Where a weights file filled the backbone, name it with --weights.

1. The answers for the split "test" and eval's file of predictions: argmax, largest difference.
2. Images a second of `extract` into an empty folder, and of `Predictor.predict` on the same images,
   in turn, --rounds times (3); the ratio of each round.
3. The same with the images as PNG files: `extract images:FOLDER`, and `predict` of that folder.
4. Peak memory and seconds of `featcache predict -` with 1,000 paths and with --paths (10,000).

--rounds 0 leaves out 2 and 3, --paths 0 leaves out 4.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from csv import reader
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

import featcache
from featcache.images.splits import ArrayImages, Split
from featcache.store import made_with
from tests.benchmarks.measure import machine

_HERE = Path(__file__).parents[2]
_NOT_OF_THE_IMAGES = ("dataset", "limit")


def main() -> int:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--weights")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--paths", type=int, default=10_000)
    parser.add_argument("--compile", default="never")
    asked = parser.parse_args()
    figures = _Measured(asked).all()
    asked.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    return 0


class _Measured:
    """The figures of one head."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        cache = featcache.open_cache(asked.cache)
        self.options = made_with(cache.identity, cache.provenance)
        self.options |= {"compile": asked.compile, "data_dir": asked.data_dir}
        if asked.weights:
            self.options["weights"] = asked.weights
        self.own = {n: v for n, v in self.options.items() if n not in _NOT_OF_THE_IMAGES}
        self.dataset = featcache.load_dataset(self.options["dataset"], data_dir=asked.data_dir)
        self.predictor = featcache.load_predictor(
            asked.run, weights=asked.weights, compile=asked.compile, on_note=print
        )

    def all(self) -> dict[str, Any]:
        """Measure everything."""
        asked = self.asked
        found: dict[str, Any] = {
            "machine": machine("cpu"),
            "options": {n: str(v) for n, v in vars(asked).items() if n not in ("out", "data_dir")},
            "agreement": self.agreement(),
        }
        if asked.rounds:
            found["in memory"] = self.rates(self.in_memory)
            found["as files"] = self.rates(self.as_files)
        if asked.paths:
            found["stdin"] = self.stdin()
        return found

    def agreement(self) -> dict[str, Any]:
        """Compare the answers for the test images with eval's file."""
        evaluation = featcache.evaluate(self.asked.run, cache=self.asked.cache, split="test")
        with evaluation.predictions.open(newline="") as file:
            titles, *rows = reader(file)
        first = titles.index(f"p({self.predictor.class_names[0]})")
        wanted = np.array([row[first:] for row in rows], np.float64)
        split = self.dataset.limited(self.options["limit"]).splits["test"]
        found = self.predictor.predict(_given(split)).probabilities
        found = found[~np.isnan(found).any(1)]
        assert found.shape == wanted.shape, (found.shape, wanted.shape)
        return {
            "n_images": len(wanted),
            "n_other_argmax": int((found.argmax(1) != wanted.argmax(1)).sum()),
            "largest_difference": float(np.abs(found - wanted).max()),
        }

    def rates(self, pairs: Any) -> dict[str, Any]:
        """Time both in turn; the first pair, in which files are read and memory taken, is left."""
        found = list(pairs())[1:]
        ratios = [predicted / extracted for extracted, predicted in found]
        return {
            "n_images": self.n_images,
            "extract_images_per_s": [round(one, 2) for one, _ in found],
            "predict_images_per_s": [round(one, 2) for _, one in found],
            "ratio_median": round(median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        }

    @property
    def splits(self) -> Sequence[Split]:
        """The images that are timed."""
        return [*self.dataset.limited(self.asked.limit).splits.values()]

    @property
    def n_images(self) -> int:
        """How many they are."""
        return sum(map(len, self.splits))

    def in_memory(self) -> Iterator[tuple[float, float]]:
        """Images a second of both, with the dataset as it is opened."""
        for _ in range(self.asked.rounds + 1):
            with tempfile.TemporaryDirectory() as folder:
                made = featcache.extract(
                    self.options["dataset"],
                    limit=self.asked.limit,
                    cache_dir=folder,
                    **self.own,
                )
            started = time.perf_counter()
            for split in self.splits:
                self.predictor.predict(_given(split))
            yield made.images_per_s, self.n_images / (time.perf_counter() - started)

    def as_files(self) -> Iterator[tuple[float, float]]:
        """Images a second of both, with the images as PNG files."""
        with tempfile.TemporaryDirectory() as kept:
            files = self._written(Path(kept) / "images", self.n_images)
            for i in range(self.asked.rounds + 1):
                made = featcache.extract(
                    f"images:{files[0].parent}", cache_dir=f"{kept}/{i}", **self.own
                )
                predictions = featcache.predict(
                    files[0].parent,
                    run=self.asked.run,
                    weights=self.asked.weights,
                    compile=self.asked.compile,
                )
                started = time.perf_counter()
                for _ in predictions:
                    pass
                yield made.images_per_s, len(files) / (time.perf_counter() - started)

    def stdin(self) -> list[Mapping[str, float]]:
        """Peak memory of the command with few paths and with many."""
        command = ["predict", "-", "--jsonl", "-q", "--run", str(self.asked.run.resolve())]
        command += ["--compile", self.asked.compile]
        if self.asked.weights:
            command += ["--weights", str(Path(self.asked.weights).resolve())]
        found = []
        with tempfile.TemporaryDirectory() as kept:
            files = self._written(Path(kept) / "images", 1000)
            for n in (1000, self.asked.paths):
                paths = "".join(f"{files[i % len(files)]}\n" for i in range(n))
                found.append(_peak_of(command, paths, n))
        return found

    def _written(self, folder: Path, most: int) -> list[Path]:
        folder.mkdir()
        files = []
        for i, pixels in zip(range(most), self._pixels(), strict=False):
            files.append(folder / f"{i:06d}.png")
            Image.fromarray(pixels).save(files[-1])
        return files

    def _pixels(self) -> Iterator[Any]:
        for split in self.splits:
            for row in range(len(split)):
                images = split.images
                is_array = isinstance(images, ArrayImages)
                yield images.pixels[row] if is_array else np.array(images.decode(row))


def _given(split: Split) -> Any:
    """The images of a split, as `Predictor.predict` takes them."""
    if isinstance(split.images, ArrayImages):
        return split.images.pixels
    return [split.images.path_of(row) for row in range(len(split))]


def _peak_of(command: Sequence[str], paths: str, n: int) -> Mapping[str, float]:
    environment = {**os.environ, "PYTHONPATH": f"{_HERE}:{_HERE / 'cli'}"}
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as stdin:
        stdin.write(paths)
        stdin.seek(0)
        with subprocess.Popen(
            [sys.executable, "-m", "featcache_cli", *command],
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None, "it is a pipe"
            n_answers = sum(1 for _ in process.stdout)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    assert (process.returncode, n_answers) == (0, n), (process.returncode, n_answers)
    seconds = round(time.perf_counter() - started, 1)
    return {"n_paths": n, "peak_mb": round(usage.ru_maxrss / 1e3, 1), "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main())
