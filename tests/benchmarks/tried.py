"""Measurements behind decisions, apart from the peers: what a thing gains, with and without.

python -m tests.benchmarks.tried compile BACKBONE     a trunk compiled by inductor, with freezing
python -m tests.benchmarks.tried memory               a step of the scratch MLP, freed memory kept
python -m tests.benchmarks.tried windows CACHE BYTES  epochs of a head from windows of the file
python -m tests.benchmarks.tried together FOLDER      two trunks, one reading of files or two
python -m tests.benchmarks.tried peaks DATA           peaks of memory, as rows grow

Each prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch._inductor.config
from torch import nn

import featcache
from featcache.backbones import load_backbone
from featcache.features import BatchPreprocessor, FeatureRows
from featcache.runtime import arithmetic, freed_memory_kept
from featcache.specs import Preprocess

CPU = torch.device("cpu")


def compiled(name: str) -> dict[str, Any]:
    """Time a trunk at batch 16, compiled and not, seven times in turn."""
    module = load_backbone(name, weights="random").module
    assert module is not None
    module = module.to(memory_format=torch.channels_last)
    images = torch.rand(16, 3, 224, 224).to(memory_format=torch.channels_last)
    torch._inductor.config.freezing = True
    with freed_memory_kept(), arithmetic("fp32", "cpu"):
        expected = module(images)
        fast = torch.compile(module)
        started = time.perf_counter()
        error = (fast(images) - expected).abs().max() / expected.abs().max()
        compile_s = time.perf_counter() - started
        seconds = [
            (_seconds(lambda: module(images)), _seconds(lambda: fast(images))) for _ in range(7)
        ]
    return {
        "compile_s": compile_s,
        "error": error.item(),
        "eager_img_per_s": 16 / statistics.median(a for a, _ in seconds),
        "compiled_img_per_s": 16 / statistics.median(b for _, b in seconds),
        "gain": statistics.median(a / b for a, b in seconds),
        "gains": [a / b for a, b in seconds],
    }


def memory() -> dict[str, Any]:
    """Time the parts of a step of the scratch MLP: median milliseconds of 12 steps each way."""
    parts = {
        "returned": _scratch_steps(contextlib.nullcontext),
        "kept": _scratch_steps(freed_memory_kept),
    }
    return {"threads": torch.get_num_threads(), **parts}


def _scratch_steps(way: Callable[[], Any]) -> dict[str, float]:
    pixels = np.random.default_rng(0).integers(0, 256, (640, 32, 32, 3), np.uint8)
    prepare = BatchPreprocessor(Preprocess.notebook(224), in_size=(32, 32), device=CPU)
    rows = FeatureRows(torch.from_numpy(pixels), torch.arange(640) % 10, CPU, prepare)
    head = nn.Sequential(
        nn.Linear(150_528, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    adam = torch.optim.Adam(head.parameters(), lr=1e-5, fused=True)
    parts: dict[str, list[float]] = {"gather": [], "forward": [], "backward": [], "adam": []}
    with way():
        for i in range(13):
            times = [time.perf_counter()]
            features, labels = rows.take(torch.arange(64) + 48 * i)
            times.append(time.perf_counter())
            adam.zero_grad()
            loss = nn.functional.cross_entropy(head(features), labels)
            times.append(time.perf_counter())
            loss.backward()
            times.append(time.perf_counter())
            adam.step()
            times.append(time.perf_counter())
            for name, a, b in zip(parts, times, times[1:], strict=False):
                parts[name].append(1e3 * (b - a))
    return {name: statistics.median(values[1:]) for name, values in parts.items()}


def windows(cache: str, n_bytes: str) -> dict[str, Any]:
    """Train three epochs from memory and from windows, three times in turn, a process each."""
    told: dict[str, list[Any]] = {"memory": [], "windows": []}
    for seed in range(4):  # the first warms the page cache
        for way, limit in (("memory", "none"), ("windows", n_bytes)):
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.tried",
                "one",
                cache,
                limit,
                str(seed),
            ]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            if seed:
                told[way].append(json.loads(answer))
    pairs = zip(told["memory"], told["windows"], strict=True)
    return told | {"speed": statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)}


def together(folder: str) -> dict[str, Any]:
    """Extract 1,000 images of a folder through two trunks, three times in turn each way."""
    names = ("mobilenet_v3_large", "resnet18")
    told: dict[str, list[float]] = {"one pass": [], "two passes": []}
    options: dict[str, Any] = {"weights": "random", "limit": 1_000, "image_size": 64}
    for _ in range(4):
        with tempfile.TemporaryDirectory() as cache:
            options["cache_dir"] = cache
            both = _seconds(
                lambda: featcache.extract_all(f"folder:{folder}", backbones=names, **options)
            )
            told["one pass"].append(both)
        with tempfile.TemporaryDirectory() as cache:
            options["cache_dir"] = cache
            told["two passes"].append(
                sum(
                    _seconds(
                        lambda name=name: featcache.extract(
                            f"folder:{folder}", backbone=name, **options
                        )
                    )
                    for name in names
                )
            )
    pairs = [b / a for a, b in zip(*told.values(), strict=True)][1:]  # the first warms up
    return told | {"gain": statistics.median(pairs), "gains": pairs}


def peaks(data_dir: str) -> list[dict[str, Any]]:
    """Extract through VGG16 and train on it, a process each: peaks against the rows' bytes.

    At 32 px, where VGG16 is fast; its rows are as long as at 224.
    """
    told = []
    with tempfile.TemporaryDirectory() as folder:
        for limit in (500, 2_000, 6_000):
            cache = f"{folder}/{limit}"
            extraction = (
                f"featcache.extract('cifar10', data_dir={data_dir!r}, limit={limit}, "
                f"image_size=32, weights='random', cache_dir={cache!r})"
            )
            extracted = _peak_mb(extraction)
            [summary] = featcache.list_caches(cache)
            train = f"featcache.train_head({str(summary.path)!r}, max_epochs=2, patience=0, "
            train += f"runs_dir={cache!r})"
            n_train = featcache.open_cache(summary.path)["train"].n_rows
            told.append(
                {
                    "rows": summary.n_rows_done,
                    "train_rows_mb": n_train * 25_088 * 4 / 1e6,
                    "extract_peak_mb": extracted,
                    "train_peak_mb": _peak_mb(train),
                }
            )
            summary.path.unlink()
    return told


def _peak_mb(call: str) -> float:
    """Run a call in a process of its own; what it held at most, by the kernel's count."""
    code = f"import featcache, resource; {call}; "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return float(finished.stdout)


def one(cache: str, limit: str, seed: str) -> dict[str, Any]:
    """Train three epochs; for `windows`."""
    with tempfile.TemporaryDirectory() as folder:
        [run] = featcache.train_head(
            cache,
            max_epochs=3,
            patience=0,
            max_memory=None if limit == "none" else int(limit),
            seed=int(seed),
            runs_dir=folder,
        ).runs
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": run.seconds, "test_acc": run.test_acc, "peak_mb": peak_mb}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    ways: dict[str, Callable[..., Any]] = {
        "compile": compiled,
        "memory": memory,
        "windows": windows,
        "together": together,
        "peaks": peaks,
        "one": one,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in ways:
        sys.exit(__doc__)
    print(json.dumps(ways[sys.argv[1]](*sys.argv[2:])))
