"""Measurements behind decisions, apart from the peers: what a thing gains, with and without.

python -m tests.benchmarks.tried compile BACKBONE     a backbone compiled by each engine
python -m tests.benchmarks.tried layers BACKBONE      its convolutions, direct and by Winograd
python -m tests.benchmarks.tried resident BACKBONE DATA [PRECISION [N]]   beside its backbone alone
python -m tests.benchmarks.tried eva PYTHON BACKBONE DATA   beside kaiko-eva, in a venv of its own
python -m tests.benchmarks.tried nvml                 what asking for a GPU costs each step
python -m tests.benchmarks.tried memory               a step of the scratch MLP, freed memory kept
python -m tests.benchmarks.tried windows CACHE BYTES  epochs of a head from windows of the file
python -m tests.benchmarks.tried together FOLDER      two backbones, one reading of files or two
python -m tests.benchmarks.tried peaks DATA           peaks of memory, as rows grow

Each prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import featcache
from featcache.backbones.engines import inductor
from featcache.backbones.engines.engine import cpp_compiler
from featcache.backbones.engines.trial import compile_backbone
from featcache.backbones.engines.winograd import (
    has_winograd_convolutions,
    with_winograd_convolutions,
)
from featcache.backbones.load import load_backbone
from featcache.backbones.runner import BackboneRunner
from featcache.core.preprocess import Preprocess
from featcache.features.rows import FeatureRows
from featcache.images.splits import ArrayImages
from featcache.images.transform import BatchPreprocessor
from tests.benchmarks import peers_backbone
from tests.benchmarks.allocator import freed_memory_kept
from tests.benchmarks.bench import images, one_split
from tests.benchmarks.peers_heads import divided

CPU = torch.device("cpu")


def compiled(name: str) -> dict[str, Any]:
    """Time a backbone at batch 16 in turn, nine times: eager, by each engine, and by inductor with
    the same settings as options of torch.compile.
    """
    module = load_backbone(name, weights="random").module
    assert module is not None
    ways = ["eager", "inductor", "as options"]
    if has_winograd_convolutions(module):
        ways.insert(1, "winograd")
    runners = {way: _runner(module) for way in ways}
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    options: dict[str, Any] = {"freezing": True, "compile_threads": 1}
    with freed_memory_kept():
        expected = runners["eager"].features(images)
        compile_s = {
            way: _seconds(lambda w=way: compile_backbone(runners[w], (32, 32, 3), w))
            for way in ways
            if way in ("winograd", "inductor")
        }
        own = inductor._own_function(module)
        runners["as options"].forward = torch.compile(own, dynamic=False, options=options)
        errors = {
            way: float(np.abs(runner.features(images) - expected).max() / np.abs(expected).max())
            for way, runner in runners.items()
        }
        rounds = [
            {way: _seconds(lambda r=r: r.features(images)) for way, r in runners.items()}
            for _ in range(9)
        ]
    told: dict[str, Any] = {"compile_s": compile_s, "n": len(rounds)}
    for way in runners:
        gains = [seconds["eager"] / seconds[way] for seconds in rounds]
        told[way] = {
            "img_per_s": 16 / statistics.median(seconds[way] for seconds in rounds),
            "error": errors[way],
            "gain": statistics.median(gains),
            "gains": [min(gains), max(gains)],
        }
    return told


def layers(name: str) -> dict[str, Any]:
    """Time each 3x3 convolution of a backbone at batch 16 and 224 px, direct and by Winograd's
    algorithm, in turn, seven times.
    """
    module = load_backbone(name, weights="random").module
    assert module is not None
    seen: dict[str, tuple[nn.Module, torch.Tensor]] = {}

    def note(part: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if has_winograd_convolutions(part):
            assert isinstance(part, nn.Conv2d)
            _, n_in, height, width = inputs[0].shape
            seen[f"{n_in} to {part.out_channels} at {height}x{width}"] = (part, inputs[0].clone())

    module.to(memory_format=torch.channels_last)
    images = torch.randn((16, 3, 224, 224)).contiguous(memory_format=torch.channels_last)
    told: dict[str, Any] = {}
    with freed_memory_kept(), torch.inference_mode():
        hooks = [
            part.register_forward_pre_hook(note)
            for part in module.modules()
            if isinstance(part, nn.Conv2d)
        ]
        module(images)
        for hook in hooks:
            hook.remove()
        for size, (direct, batch) in seen.items():
            fast = with_winograd_convolutions(nn.Sequential(direct), cpp_compiler())
            expected = direct(batch)
            error = (fast(batch) - expected).abs().max() / expected.abs().max()
            seconds = [
                (_seconds(lambda d=direct, b=batch: d(b)), _seconds(lambda f=fast, b=batch: f(b)))
                for _ in range(7)
            ]
            gains = sorted(a / b for a, b in seconds)
            told[size] = {"gain": statistics.median(gains), "gains": [gains[0], gains[-1]]}
            told[size]["error"] = float(error)
    return told


def _runner(module: nn.Module) -> BackboneRunner:
    return BackboneRunner(
        module,
        preprocess=Preprocess.notebook(224),
        device="cpu",
        precision="fp32",
        batch_size=16,
    )


def resident(
    name: str, data_dir: str, precision: str = "fp32", n_images: str = "2048"
) -> dict[str, Any]:
    """Extract CIFAR-10 images, and run preprocessing and backbone alone on them, in turn."""
    dataset = one_split(images(int(n_images), data_dir))
    with peers_backbone.peers(name, dataset, precision=precision) as listed:
        ours, *others = listed
    [ceiling] = [peer for peer in others if peer.name.startswith("its preprocessing")]
    ours.run()
    ceiling.run()
    ratios = []
    for _ in range(9):
        mine, theirs = ours.run()[0], ceiling.run()[0]
        ratios.append(theirs / mine)
    return {"ratio": statistics.median(ratios), "ratios": sorted(ratios)}


def eva(python: str, name: str, data_dir: str, n_images: str = "256") -> dict[str, Any]:
    """Extract with eva's `trainer.predict` and writer, and with featcache, in turn, three times.

    Args:
        python: An interpreter with kaiko-eva[vision] and this torch.
        name: The backbone, with the same random weights on both sides.
        data_dir: Where CIFAR-10 lies.
        n_images: How many of its images.

    Start-up is left out on both sides: imports, weights, one short run to warm up; digest, compile.
    """
    dataset = one_split(images(int(n_images), data_dir))
    [split] = dataset.splits.values()
    with peers_backbone.peers(name, dataset) as listed:
        ours = listed[0]
    backbone = load_backbone(name, weights="random").module
    assert backbone is not None
    assert isinstance(split.images, ArrayImages)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/pixels.npy", split.images.pixels)
        torch.save(backbone.state_dict(), f"{folder}/backbone.pt")
        for _ in range(3):
            command = [python, str(Path(__file__).with_name("with_eva.py")), name, folder]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            theirs_s = float(told.split()[-1])
            ours_s, rows = ours.run()
            rounds.append((theirs_s, ours_s))
        found = torch.from_numpy(np.load(f"{folder}/rows.npy"))
    error = float((found - rows).abs().max() / rows.abs().max())
    if not error <= 1e-4:
        sys.exit(f"eva's features differ by {error:.1g} of the largest: no figures")
    ratios = sorted(theirs_s / ours_s for theirs_s, ours_s in rounds)
    return {
        "error": error,
        "eva_img_per_s": len(rows) / statistics.median(s for s, _ in rounds),
        "featcache_img_per_s": len(rows) / statistics.median(s for _, s in rounds),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def nvml() -> dict[str, float]:
    """Ask torch 1,000 times whether there is a GPU, as each optimiser step does; milliseconds."""
    told = {}
    for way, setting in (("with Lightning's setting", "1"), ("without", "0")):
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = setting
        torch.cuda.is_available()
        told[way] = _seconds(lambda: [torch.cuda.is_available() for _ in range(1000)])
    return told


def memory() -> dict[str, Any]:
    """Time the parts of a step of the scratch MLP: median milliseconds of 12 steps each way."""
    told: dict[str, Any] = {"threads": torch.get_num_threads()}
    pixels = np.random.default_rng(0).integers(0, 256, (13 * 64, 32, 32, 3), np.uint8)
    prepare = BatchPreprocessor(Preprocess.notebook(224), in_size=(32, 32), device=CPU)
    rows = FeatureRows(torch.from_numpy(pixels), torch.arange(len(pixels)) % 10, CPU, prepare)
    ways = {"returned": contextlib.nullcontext, "kept": freed_memory_kept}
    for name, way in ways.items():
        with way():
            told[name] = divided(rows, 150_528, hidden=(256, 64), n_steps=12)
    return told


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
    """Extract 200 images a split through two backbones, three times in turn each way."""
    names = ("mobilenet_v3_small", "resnet18")
    told: dict[str, list[float]] = {"one pass": [], "two passes": []}
    for _ in range(4):
        for way, passes in (("one pass", [names]), ("two passes", [(n,) for n in names])):
            with tempfile.TemporaryDirectory() as cache:
                told[way].append(
                    sum(_seconds(lambda p=p: _extract(p, folder, cache)) for p in passes)
                )
    gains = [b / a for a, b in zip(*told.values(), strict=True)][1:]  # the first warms up
    return {**told, "gain": statistics.median(gains), "gains": gains}


def _extract(names: Sequence[str], folder: str, cache_dir: str) -> None:
    featcache.extract_all(
        [
            featcache.ExtractSpec(
                dataset=f"folder:{folder}",
                backbone=name,
                weights="random",
                limit=200,
                image_size=64,
                cache_dir=cache_dir,
            )
            for name in names
        ]
    )


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
            told.append(
                {
                    "rows": summary.n_rows_done,
                    "rows_mb": summary.n_rows_done * 25_088 * 4 / 1e6,
                    "extract_peak_mb": extracted,
                    "train_peak_mb": _peak_mb(train),
                }
            )
            summary.path.unlink()
    return told


_SAMPLED = """
import featcache, re, threading, time
most = 0
def sample():
    global most
    while True:
        status = open("/proc/self/status").read()
        most = max(most, int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]))
        time.sleep(0.01)
threading.Thread(target=sample, daemon=True).start()
"""


def _peak_mb(call: str) -> float:
    """Run a call in a process of its own; its own memory at most, sampled every 10 ms.

    Pages of the mapped file are not counted: the system takes them back when it needs them.
    """
    code = f"{_SAMPLED}{call}\nprint(most * 1024 / 1e6)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return float(finished.stdout)


def one(cache: str, limit: str, seed: str) -> dict[str, Any]:
    """Train three epochs; for `windows`."""
    with tempfile.TemporaryDirectory() as folder, freed_memory_kept():  # as the command line
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
        "layers": layers,
        "resident": resident,
        "eva": eva,
        "nvml": nvml,
        "memory": memory,
        "windows": windows,
        "together": together,
        "peaks": peaks,
        "one": one,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in ways:
        sys.exit(__doc__)
    print(json.dumps(ways[sys.argv[1]](*sys.argv[2:])))
