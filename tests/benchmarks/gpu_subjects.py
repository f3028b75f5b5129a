"""What the parts of the GPU benchmark work on: images of noise, backbones of random weights."""

from __future__ import annotations

import copy
import functools
import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import featcache
from featcache.backbones.load import load_backbone
from featcache.backbones.runner import BackboneRunner
from featcache.core.preprocess import Preprocess
from featcache.extraction.result import ExtractResult
from featcache.images.splits import ArrayImages, Dataset, Split

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where and how large: a GPU, or a rehearsal on a CPU that shows that all parts run.

    Attributes:
        device: "cuda:0", or "cpu" in a rehearsal.
        n_images: Images of a whole extraction.
        batch_size: Images in one forward pass.
        side: Side of a backbone's input, in pixels.
        backbones: By name.
        n_rows: Rows of an epoch of a head.
        compile: The engine of whole extractions.
    """

    device: str
    n_images: int
    batch_size: int
    side: int
    backbones: tuple[str, ...]
    n_rows: int
    compile: str

    @property
    def is_rehearsal(self) -> bool:
        """Whether there is no GPU in it."""
        return self.device == "cpu"

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the device can compute in."""
        return ("fp32", "bf16") if self.is_rehearsal else ("fp32", "tf32", "bf16", "fp16")

    @property
    def default_precision(self) -> str:
        """What `--precision auto` takes."""
        return "fp32" if self.is_rehearsal else "tf32"

    def runner(self, name: str, precision: str, *, device: str | None = None) -> BackboneRunner:
        """Put a backbone on the device."""
        return BackboneRunner(
            module(name, self.side),
            preprocess=Preprocess.notebook(self.side),
            device=device or self.device,
            precision=precision,
            batch_size=self.batch_size,
        )

    def extract(self, dataset: Dataset, folder: Path | str, **options: Any) -> ExtractResult:
        """Run `featcache.extract` on images that have no files."""
        settings: dict[str, Any] = {
            "weights": "random",
            "image_size": self.side,
            "device": self.device,
            "batch_size": self.batch_size,
            "compile": self.compile,
            "cache_dir": folder,
        }
        with mock.patch("featcache.extraction.opening.load_dataset", return_value=dataset):
            return featcache.extract("cifar10", **(settings | options))

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.is_rehearsal:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Median seconds of 3 rounds, each of 3 calls, after 2 to warm up."""
        for _ in range(2):
            work()
        self.synchronize()
        rounds = []
        for _ in range(3):
            started = time.perf_counter()
            for _ in range(3):
                work()
            self.synchronize()
            rounds.append((time.perf_counter() - started) / 3)
        return statistics.median(rounds)


def noise(n: int, *, seed: int = 0) -> np.ndarray:
    """Make images of CIFAR-10's size."""
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), np.uint8)


def noisy_dataset(n: int) -> Dataset:
    """Make a dataset of CIFAR-10's shape: five of six images to train on."""
    splits = {}
    for seed, (name, size) in enumerate((("train", n - n // 6), ("test", n // 6))):
        labels = np.arange(size, dtype=np.int64) % 10
        ids = [str(i) for i in range(size)]
        splits[name] = Split(name, ArrayImages(noise(size, seed=seed)), labels, ids)
    names = tuple(f"class{i}" for i in range(10))
    return Dataset(name="cifar10", splits=splits, class_names=names, slug="cifar10")


def module(name: str, side: int) -> torch.nn.Module:
    """Build a backbone with random weights, anew each time."""
    return copy.deepcopy(_built(name, side))


@functools.cache
def _built(name: str, side: int) -> torch.nn.Module:
    built = load_backbone(name, weights="random", image_size=side).module
    assert built is not None
    return built


def digest(path: Path) -> str:
    """SHA-256 of a file, shortened."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
