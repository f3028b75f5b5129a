"""featcache on one CUDA GPU, in at most 8 minutes: equality gates, rates, shares of the limits.

    python -m tests.benchmarks.gpu OUT_STEM [--data-dir DATA] [--images N]

Needs no network: weights are random, and images noise of CIFAR-10's size unless --data-dir has it.
A part that fails is reported, and the others go on. Without a GPU it says so and ends with 0.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import featcache
import featcache.extraction
from featcache.arithmetic import arithmetic
from featcache.backbones import load_backbone
from featcache.bank import HeadBank, Member, MemberState
from featcache.datasets import ArrayImages, Dataset, Split, load_dataset
from featcache.features import BatchPreprocessor, FeatureRows
from featcache.forward import TrunkRunner
from featcache.preprocess import Preprocess
from featcache.replay import ASKED_BY
from featcache.specs import HeadSpec
from tests.benchmarks import peers_heads
from tests.benchmarks.limits import FLOP_PER_IMAGE
from tests.benchmarks.measure import close, compare, machine, table
from tests.benchmarks.peers_heads import bank_epoch, bare_epoch, synthetic_rows

TRUNKS = {"vgg16": 25_088, "mobilenet_v3_large": 960}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
BATCH_SIZE = 256
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("--data-dir")
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("No CUDA device is visible: nothing was measured.")
        return
    dataset = _dataset(options.images, options.data_dir)
    parts: Mapping[str, Callable[[], Figures]] = {
        "features, CPU against GPU": features_agree,
        "head losses, CPU against GPU": losses_agree,
        "trunks": trunk_rates,
        "extraction": lambda: extraction_rates(dataset),
        "bandwidth": bandwidth,
        "heads": head_epochs,
        "many heads": many_heads,
        "steps replayed as a graph": replayed_steps,
    }
    report: Figures = {"machine": machine("cuda:0"), "images": options.images, "parts": {}}
    options.stem.parent.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        started = time.perf_counter()
        torch.cuda.reset_peak_memory_stats()
        try:
            figures = part()
        except Exception:  # a part that fails must not take the others with it
            figures = {"failed": traceback.format_exc()}
        figures["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
        figures["took_s"] = time.perf_counter() - started
        report["parts"][name] = figures
        print(f"== {name}\n{json.dumps(figures, indent=1, default=str)}", flush=True)
        content = json.dumps(report, indent=2, default=str) + "\n"
        options.stem.with_suffix(".json").write_text(content)
        torch.cuda.empty_cache()
    failed = [name for name, figures in report["parts"].items() if "failed" in figures]
    print(f"{len(parts) - len(failed)} of {len(parts)} parts measured. Failed: {failed or 'none'}")
    sys.exit(1 if failed else 0)


def features_agree() -> Figures:
    """Compare 64 images' features with the CPU's, by the largest one."""
    pixels = _noise(64)
    figures = {}
    for name in TRUNKS:
        expected = _runner(name, "cpu", "fp32", 16).features_of(pixels)
        for precision in PRECISIONS:
            rows = _runner(name, "cuda:0", precision, 64).features_of(pixels)
            error = np.abs(rows - expected).max() / np.abs(expected).max()
            figures[f"{name} {precision}"] = float(error)
        assert figures[f"{name} fp32"] <= 1e-4, f"{name}: {figures[f'{name} fp32']:.2g}"
    return figures


def losses_agree() -> Figures:
    """Compare the losses of 100 steps with the CPU's."""
    rows = {d: synthetic_rows(6_400, 960, torch.device(d)) for d in ("cpu", "cuda:0")}
    losses = {d: bare_epoch(r, 960, HeadSpec(), fused=True)[1] for d, r in rows.items()}
    bank = bank_epoch(rows["cuda:0"], 960, 8)[1]
    difference = {
        "one head": (losses["cuda:0"] / losses["cpu"] - 1).abs().max().item(),
        "first of 8 side by side": (bank / losses["cpu"] - 1).abs().max().item(),
    }
    assert max(difference.values()) <= 1e-4, difference
    return difference


def trunk_rates() -> Figures:
    """Time preprocessing and trunk, and the trunk alone, on a resident batch in each precision."""
    figures: Figures = {}
    prepare = BatchPreprocessor(
        Preprocess.notebook(224), in_size=(32, 32), device=torch.device("cuda:0")
    )
    resident = torch.from_numpy(_noise(BATCH_SIZE)).to("cuda:0")
    for name in TRUNKS:
        for precision in PRECISIONS:
            module = _module(name).to("cuda:0", memory_format=torch.channels_last)
            with arithmetic(precision, "cuda:0"):
                inputs = prepare(resident)
                whole_s = _seconds(lambda m=module: m(prepare(resident)))
                trunk_s = _seconds(lambda m=module, x=inputs: m(x))
            figures[f"{name} {precision}"] = {
                "trunk_img_per_s": BATCH_SIZE / trunk_s,
                "with_preprocessing_img_per_s": BATCH_SIZE / whole_s,
                "trunk_tflop_per_s": FLOP_PER_IMAGE[name] * BATCH_SIZE / trunk_s / 1e12,
            }
    return figures


def extraction_rates(dataset: Dataset) -> Figures:
    """Run `featcache.extract` on all images, and set its rate beside the trunk's own."""
    featcache.extraction.load_dataset = lambda *_, **__: dataset  # generated images have no files
    figures: Figures = {}
    trunks = trunk_rates()
    for name in TRUNKS:
        for precision in ("fp32", "tf32", "bf16"):
            with tempfile.TemporaryDirectory() as folder:
                result = featcache.extract(
                    "cifar10",
                    backbone=name,
                    weights="random",
                    precision=precision,
                    batch_size=BATCH_SIZE,
                    device="cuda:0",
                    cache_dir=folder,
                )
            bare = trunks[f"{name} {precision}"]["trunk_img_per_s"]
            figures[f"{name} {precision}"] = {
                "img_per_s": result.images_per_s,
                "of_the_bare_trunk": result.images_per_s / bare,
                "seconds": result.seconds,
                "by_phase": dict(result.seconds_by_phase),
            }
    return figures


def bandwidth() -> Figures:
    """Copy 2 GB on the device: the limit of Adam and of gathering."""
    source = torch.empty(1 << 29, device="cuda:0")
    target = torch.empty_like(source)
    return {"gb_per_s": 2 * source.nbytes / _seconds(lambda: target.copy_(source)) / 1e9}


def head_epochs() -> Figures:
    """Compare ways to train an epoch of 40,000 rows on resident features."""
    figures = {}
    for name, n_features in TRUNKS.items():
        rows = synthetic_rows(40_000, n_features, torch.device("cuda:0"))
        listed = peers_heads.peers(rows, n_features)
        title = f"An epoch of the {name} head, 40,000 rows of {n_features:,}, on the GPU"
        result = compare(title, listed, gate=close(1e-4), repeats=3, unit="rows")
        figures[name] = {"table": table(result), "rows": result["rows"]}
        del rows, listed
    return figures


def replayed_steps() -> Figures:
    """Time an epoch with steps replayed and as they are, in turn; all their losses must agree."""
    figures: Figures = {}
    for name, n_features in TRUNKS.items():
        rows = synthetic_rows(40_000, n_features, torch.device("cuda:0"))
        epochs: Mapping[str, Callable[[], tuple[float, torch.Tensor]]] = {
            reg: lambda r=rows, d=n_features, g=reg: _seeded_epoch(r, d, HeadSpec(reg=g))
            for reg in ("none", "l1l2", "dropout")
        }
        epochs = {**epochs, "32 mixed": lambda r=rows, d=n_features: _mixed_bank_epoch(r, d)}
        for kind, epoch in epochs.items():
            gate, seconds, gains = close(1e-4), [], []
            for _ in range(4):
                with mock.patch.dict(os.environ, {ASKED_BY: "1"}):
                    replayed_s, losses = epoch()  # a step that cannot be replayed is an error
                with mock.patch.dict(os.environ, {ASKED_BY: "0"}):
                    plain_s, expected = epoch()
                gate(expected, losses)
                seconds.append(replayed_s)
                gains.append(plain_s / replayed_s)
            figures[f"{name}, {kind}"] = {  # the first warms up
                "replayed_rows_per_s": len(rows.labels) / statistics.median(seconds[1:]),
                "gain": statistics.median(gains[1:]),
                "gains": gains[1:],
            }
        del rows
    return figures


def _seeded_epoch(rows: FeatureRows, n_features: int, spec: HeadSpec) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)
    return peers_heads.trainer_epoch(rows, n_features, spec)


def _mixed_bank_epoch(rows: FeatureRows, n_features: int) -> tuple[float, torch.Tensor]:
    specs = [HeadSpec(reg=reg) for reg in ("none", "l1l2", "dropout", "l2")] * 8
    members = [Member(f"{i:03d}", spec, 1e-5, i) for i, spec in enumerate(specs)]
    states = [MemberState.initial(m, n_features=n_features, n_classes=10) for m in members]
    bank = HeadBank(members, states, device=rows.device)
    bank.set_epoch(0)
    parts = torch.arange(len(rows.labels), device=rows.device).split(peers_heads.BATCH_SIZE)
    started = time.perf_counter()
    with torch.no_grad():
        losses = torch.stack([bank.step(*rows.take(part)) for part in parts]).cpu()
    return time.perf_counter() - started, losses


def many_heads() -> Figures:
    """Time K MobileNet heads side by side over 40,000 rows."""
    rows = synthetic_rows(40_000, 960, torch.device("cuda:0"))
    seconds = {}
    for n_heads in (1, 8, 32, 128):
        bank_epoch(rows, 960, n_heads)
        seconds[n_heads] = statistics.median(bank_epoch(rows, 960, n_heads)[0] for _ in range(3))
    return {"seconds": seconds, "32 heads by one": seconds[32] / seconds[1]}


class _Runner(TrunkRunner):
    def features_of(self, pixels: np.ndarray) -> np.ndarray:
        parts = [pixels[i : i + self.batch_size] for i in range(0, len(pixels), self.batch_size)]
        return np.concatenate([self.features(part) for part in parts])


def _runner(name: str, device: str, precision: str, batch_size: int) -> _Runner:
    return _Runner(
        _module(name),
        preprocess=Preprocess.notebook(224),
        is_resized=False,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )


def _module(name: str) -> torch.nn.Module:
    module = load_backbone(name, weights="random").module
    assert module is not None
    return module


def _seconds(work: Callable[[], object]) -> float:
    """Median seconds of 5, each of 3 calls, after 3 to warm up."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / 3)
    return statistics.median(seconds)


def _noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)


def _dataset(n: int, data_dir: str | None) -> Dataset:
    if data_dir is not None:
        return load_dataset("cifar10", data_dir=data_dir).limited(n // 2)
    splits = {}
    for name in ("train", "test"):
        labels = np.arange(n // 2, dtype=np.int64) % 10
        ids = [str(i) for i in range(n // 2)]
        splits[name] = Split(name, ArrayImages(_noise(n // 2)), labels, ids)
    names = tuple(f"class{i}" for i in range(10))
    return Dataset(name="cifar10", splits=splits, class_names=names, slug="cifar10")


if __name__ == "__main__":
    main()
