"""Measure one extraction against its own backbone, in the same process and the same minutes.

    python tests/benchmarks/stage_one.py OUT.json -- --dataset cifar10 --backbone mobilenet_v2 ...

What stands behind `--` are options of `featcache extract`. After every 25th batch the backbone
alone also runs a preprocessed batch that lies in memory (three times, the last two count); that
time is taken off the extraction's. The ratio is the median over these windows of the extraction's
rate in the window by the backbone's at its end, so that both see the same noise of the machine. A
forward pass of plain PyTorch, without featcache's keeping of freed memory, is timed before the run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

import featcache
from featcache.backbones.load import load_backbone
from featcache.config import NOTEBOOK_SIZE, ExtractSpec
from featcache.core.allocator import keep_freed_memory
from featcache.core.arithmetic import arithmetic
from featcache.extraction.progress import Progress

_EVERY_N_BATCHES = 25
_N_PLAIN = 7


class BareBackbone:
    """Times the backbone on a resident batch, between the batches of an extraction."""

    def __init__(self, spec: ExtractSpec, batch_size: int, precision: str) -> None:
        module = load_backbone(
            spec.backbone, weights=spec.weights, seed=spec.seed, image_size=spec.image_size
        ).module
        assert module is not None, "pixels have no backbone to compare with"
        self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        size = spec.image_size or NOTEBOOK_SIZE
        self.batch = torch.rand(batch_size, 3, size, size).to(memory_format=torch.channels_last)
        self.precision = precision
        self.seconds: list[float] = []
        self.ratios: list[float] = []
        self.taken_s = 0.0
        self._n_calls = 0
        self._window_began = 0.0

    def __call__(self, progress: Progress) -> None:
        """Run now and then; the extraction calls this after each batch."""
        if progress.stage != "extract":
            return
        self._n_calls += 1
        if self._n_calls % _EVERY_N_BATCHES == 1:
            ended = time.perf_counter()
            self.time_one()  # warms the caches again after the extraction's own work
            bare_s = (self.time_one() + self.time_one()) / 2
            self.seconds.append(bare_s)
            if self._window_began:
                batch_s = (ended - self._window_began) / _EVERY_N_BATCHES
                self.ratios.append(bare_s / batch_s)
            self._window_began = time.perf_counter()
            self.taken_s += self._window_began - ended

    def time_one(self) -> float:
        """Seconds of one forward pass."""
        started = time.perf_counter()
        with arithmetic(self.precision, "cpu"):
            self.module(self.batch)
        return time.perf_counter() - started


def measure(options: list[str]) -> dict[str, object]:
    """Run one extraction into a temporary folder and gather its figures."""
    spec = _parse(options)
    precision = "fp32" if spec.precision == "auto" else spec.precision
    batch_size = spec.batch_size or 16
    bare = BareBackbone(spec, batch_size, precision)
    plain_s = [bare.time_one() for _ in range(_N_PLAIN + 2)][2:]
    keep_freed_memory()  # as the command line does
    folder = Path(tempfile.mkdtemp(prefix="featcache-bench-"))
    keywords = dataclasses.asdict(spec) | {"cache_dir": folder, "batch_size": batch_size}
    try:
        result = featcache.extract(**keywords, on_progress=bare)
        work_s = result.seconds - bare.taken_s
        phases = dict(result.seconds_by_phase)
        rate = result.n_rows / sum(phases.values())
        bare_rate = batch_size / statistics.median(bare.seconds)
        return {
            "command": "featcache extract " + " ".join(options),
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "n_rows": result.n_rows,
            "img_per_s": rate,
            "img_per_s_with_start_up": result.n_rows / work_s,
            "bare_trunk_img_per_s": bare_rate,
            "bare_trunk_quartiles": [batch_size / q for q in _quartiles(bare.seconds)],
            "n_windows": len(bare.ratios),
            "ratio_to_bare_trunk": statistics.median(bare.ratios),
            "ratio_quartiles": _quartiles(bare.ratios),
            "plain_pytorch_img_per_s": batch_size / statistics.median(plain_s),
            "seconds": work_s,
            "seconds_by_phase": phases,
            "peak_memory_mb": _peak_mb(resource.RUSAGE_SELF),
            "peak_memory_of_a_worker_mb": _peak_mb(resource.RUSAGE_CHILDREN),
            "file_mb": result.nbytes / 1e6,
            "n_failures": len(result.failures),
            "account": dataclasses.asdict(result.account) if result.account else None,
        }
    finally:
        shutil.rmtree(folder)


def _parse(options: list[str]) -> ExtractSpec:
    parser = argparse.ArgumentParser()
    for field in dataclasses.fields(ExtractSpec):
        kind = (
            int if field.name in {"image_size", "batch_size", "n_workers", "limit", "seed"} else str
        )
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, default=field.default)
    return ExtractSpec(**vars(parser.parse_args(options)))


def _quartiles(seconds: list[float]) -> list[float]:
    return statistics.quantiles(seconds, n=4)[::2] if len(seconds) > 1 else seconds * 2


def _peak_mb(who: int) -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    where, separator, *behind = sys.argv[1:]
    assert separator == "--", __doc__
    figures = measure(behind)
    text = json.dumps(figures, indent=2)
    Path(where).write_text(text + "\n")
    print(text)
