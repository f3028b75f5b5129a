"""featcache beside its peers, in one run: tables on the screen, and as JSON and Markdown.

    python -m tests.benchmarks.bench OUT_STEM [--quick] [--data-dir DATA]

About 20 minutes on 2 cores, less with `--quick`, in fp32 alone. Without --data-dir the images are
noise: the work is the same. Tables in bf16 only where the processor has instructions for it. The
machine should have nothing else to do. Peers that are not installed are left out, by name
(`pip install -e ".[bench]"`); `python -m tests.benchmarks.alternatives` runs those alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featcache.config import HeadSpec
from featcache.core.preprocess import Preprocess
from featcache.features.rows import FeatureRows
from featcache.images.datasets import load_dataset
from featcache.images.splits import ArrayImages, Dataset, Split
from featcache.images.transform import BatchPreprocessor
from featcache.training.notebook_systems import SYSTEMS
from tests.benchmarks import peers_backbone, peers_engines, peers_heads
from tests.benchmarks.bench_page import markdown, picture
from tests.benchmarks.limits import (
    FLOP_PER_IMAGE,
    has_bf16,
    head_limit,
    limited,
    machine_limits,
)
from tests.benchmarks.measure import Peer, close, compare, machine
from tests.benchmarks.peers_heads import bank_epoch, bare_epoch, synthetic_rows

CPU = torch.device("cpu")
N_TRAIN, N_VAL, N_TEST = 40_000, 10_000, 10_000
Result = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much of everything is run."""

    repeats: int
    backbone_repeats: dict[str, int]
    n_images: dict[str, int]
    n_rows: dict[str, int]
    n_slow_rows: int
    n_pixels: int
    n_heads: Sequence[int]


FULL = Size(
    5,
    {"mobilenet_v3_large": 5, "vgg16": 3},
    {"mobilenet_v3_large": 512, "vgg16": 64},
    {"mobilenet_v3_large": 20_000, "vgg16": 8_000},
    640,
    640,
    (1, 8, 32, 128),
)
QUICK = Size(
    3,
    {"mobilenet_v3_large": 2, "vgg16": 2},
    {"mobilenet_v3_large": 64, "vgg16": 16},
    {"mobilenet_v3_large": 5_000, "vgg16": 1_280},
    128,
    128,
    (1, 32),
)
N_FEATURES = {"mobilenet_v3_large": 960, "vgg16": 25_088}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    pixels = images(max(*size.n_images.values(), size.n_pixels), options.data_dir)
    report: Result = {"machine": machine(), "quick": options.quick, "tables": []}
    precisions = ("fp32", "bf16") if has_bf16() and not options.quick else ("fp32",)
    limits = machine_limits(precisions)
    report["limits"] = limits
    backbones = {
        precision: {name: backbone(name, pixels, size, precision, limits) for name in N_FEATURES}
        for precision in precisions
    }
    others = [engines(name, pixels, size) for name in N_FEATURES]
    heads = {name: head(name, size, limits) for name in N_FEATURES}
    scratch = scratch_mlp(pixels, size, limits)
    sweep = many_heads(size)
    report["tables"] = [t for of_one in backbones.values() for t in of_one.values()]
    report["tables"] += [*others, *heads.values(), scratch, sweep]
    report["left_out"] = not_installed()
    report["growth"] = growth(size)
    report["account"] = {
        precision: account(backbones["fp32"], of_one, heads, scratch)
        for precision, of_one in backbones.items()
    }
    stem = options.stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    stem.with_suffix(".md").write_text(markdown(report))
    picture(report["growth"], stem.with_name(f"{stem.name}-growth.svg"))
    print(markdown(report))


def images(n: int, data_dir: str | None) -> np.ndarray:
    """Take CIFAR-10's first training images, or noise of their size."""
    if data_dir is None:
        return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)
    return load_dataset("cifar10", data_dir=data_dir).splits["train"].images.pixels[:n]


def backbone(
    name: str, pixels: np.ndarray, size: Size, precision: str, limits: dict[str, float]
) -> Result:
    """Compare ways to extract features."""
    n = size.n_images[name]
    title = f"Features of {name}, {precision}, {n} images at 224 px"
    with peers_backbone.peers(name, one_split(pixels[:n]), precision=precision) as listed:
        result = compare(
            title,
            listed,
            gate=close({"fp32": 1e-4, "bf16": 5e-2}[precision]),
            repeats=size.backbone_repeats[name],
            unit="images",
        )
    per_s = limits[f"{precision}_flop_per_s"] / FLOP_PER_IMAGE[name]
    what = f"direct convolutions at the {precision} peak"
    return result | limited(_rate(result, "featcache"), per_s, what)


def engines(name: str, pixels: np.ndarray, size: Size) -> Result:
    """Compare engines for the backbone alone, on batches that are ready."""
    n = size.n_images[name]
    title = f"The network alone of {name}, fp32, {n} ready images at 224 px, batches of 16"
    repeats = size.backbone_repeats[name]
    with peers_engines.peers(name, pixels[:n]) as listed:
        return compare(title, listed, gate=close(1e-4), repeats=repeats, unit="images")


def not_installed() -> list[str]:
    """Say which peers are left out, and what to install."""
    sklearn = peers_heads.sklearn_left_out()
    return peers_engines.not_installed() + ([sklearn] if sklearn else [])


def one_split(pixels: np.ndarray) -> Dataset:
    """Make a dataset of images that have no files."""
    n = len(pixels)
    split = Split("test", ArrayImages(pixels), np.arange(n) % 10, [str(i) for i in range(n)])
    names = tuple(f"class{i}" for i in range(10))
    return Dataset(name="cifar10", splits={"test": split}, class_names=names, slug="cifar10")


def head(name: str, size: Size, limits: dict[str, float]) -> Result:
    """Compare ways to train an epoch of a head on resident features."""
    rows = synthetic_rows(size.n_rows[name], N_FEATURES[name], CPU)
    listed = peers_heads.peers(rows, N_FEATURES[name], n_slow=size.n_slow_rows)
    title = f"An epoch of the {name} head, {len(rows.labels):,} rows of {N_FEATURES[name]:,}"
    result = compare(title, listed, gate=close(1e-4), repeats=size.repeats, unit="rows")
    result |= head_limit(_rate(result, "featcache"), N_FEATURES[name], (50, 20), limits)
    return result | {"bare_step_ms": peers_heads.divided(rows, N_FEATURES[name])}


def scratch_mlp(pixels: np.ndarray, size: Size, limits: dict[str, float]) -> Result:
    """Compare ways to train the scratch MLP, each batch made into 224 px pixels first.

    All ways make their pixels as featcache does. The notebook makes them with PIL, image by image;
    its own step, for the account, is timed on pixels that are ready.
    """
    prepare = BatchPreprocessor(Preprocess.notebook(224), in_size=(32, 32), device=CPU)
    labels = torch.arange(size.n_pixels) % 10
    rows = FeatureRows(torch.from_numpy(pixels[: size.n_pixels]), labels, CPU, prepare)
    n_inputs, hidden = 3 * 224 * 224, (256, 64)
    listed = peers_heads.peers(rows, n_inputs, hidden=hidden)
    title = f"An epoch of the scratch MLP, {size.n_pixels} images at 224 px"
    result = compare(title, listed, gate=close(1e-4), repeats=min(size.repeats, 3), unit="images")
    result |= head_limit(_rate(result, "featcache"), n_inputs, hidden, limits)
    n_ready = min(256, size.n_pixels)
    ready = FeatureRows(prepare(rows.features[:n_ready]).flatten(1), labels[:n_ready], CPU, None)
    spec = HeadSpec(hidden=hidden)
    seconds = [bare_epoch(ready, n_inputs, spec, fused=False)[0] for _ in range(3)]
    return result | {"notebook_step_s_per_image": statistics.median(seconds) / n_ready}


def many_heads(size: Size) -> Result:
    """Compare K heads side by side with one after another."""
    rows = synthetic_rows(6_400, 960, CPU)
    n = len(rows.labels)

    def of(k: int) -> Callable[[], tuple[float, torch.Tensor]]:
        return lambda: bank_epoch(rows, 960, k)

    def bare() -> tuple[float, torch.Tensor]:
        return bare_epoch(rows, 960, HeadSpec(), fused=True)

    largest = max(k for k in size.n_heads if k <= 32)
    listed = [Peer(f"{largest} heads side by side", of(largest), n * largest)]
    listed += [Peer(f"{k} heads side by side", of(k), n * k) for k in size.n_heads if k != largest]
    listed.append(Peer("one after another: bare loop, fused Adam", bare, n))
    title = f"Heads of 960 features, {n:,} rows each"
    return compare(title, listed, gate=close(1e-4), repeats=size.repeats, unit="rows x heads")


def growth(size: Size) -> Result:
    """Time featcache's epochs as rows, features and heads grow; the exponents of the curves."""
    n_rows = [1_000, 4_000, 16_000] if size is QUICK else [1_000, 4_000, 16_000, 60_000]
    n_features = [512, 2_048, 8_192] if size is QUICK else [512, 2_048, 8_192, 25_088]
    curves = {
        "rows (960 features)": {n: _seconds(n, 960, 1) for n in n_rows},
        "features (2,000 rows)": {d: _seconds(2_000, d, 1) for d in n_features},
        "heads (2,000 rows of 960)": {k: _seconds(2_000, 960, k) for k in size.n_heads},
    }
    return {
        name: {"seconds": seconds, "exponent": _exponent(seconds)}
        for name, seconds in curves.items()
    }


def _seconds(n: int, n_features: int, n_heads: int) -> float:
    rows = synthetic_rows(n, n_features, CPU)
    bank_epoch(rows, n_features, n_heads)
    return statistics.median(bank_epoch(rows, n_features, n_heads)[0] for _ in range(3))


def _exponent(seconds: dict[int, float]) -> float:
    """Fit seconds ~ size ** exponent by least squares of the logarithms."""
    xs, ys = ([math.log(v) for v in values] for values in (seconds.keys(), seconds.values()))
    return statistics.linear_regression(xs, ys).slope


def account(
    backbones: dict[str, Result],
    extracted: dict[str, Result],
    heads: dict[str, Result],
    scratch: Result,
) -> Result:
    """Weigh the whole notebook against the whole of `reproduce`, by counted passes.

    Its loop is as in `backbones`, in fp32; featcache's extractions are as in `extracted`.

    The notebook: training, validation and test images of each system through its own loop, at the
    measured rate. Left out, in its favour: the steps of the heads on backbones, and all of
    validation and test of the scratch MLP but PIL. featcache: each backbone's 60,000 images once,
    and all epochs of all heads, validation and test at the rate of training, in the notebook's
    favour too. Left out, in featcache's: start-up (half a minute of it compiles MobileNetV3), and
    the check of a cache before it is used. MobileNetV3 may stop before its 50 epochs, so the ratio
    stands there with 50 and with 10.
    """
    pil_s = 1 / peers_backbone.pil_images_per_s()
    parts: dict[str, dict[str, float]] = {}
    for system in SYSTEMS:
        name, n_epochs = system.backbone, system.train.max_epochs
        n_passes = n_epochs * (N_TRAIN + N_VAL) + N_TEST
        if name in backbones:
            theirs = n_passes / _rate(backbones[name], "the notebook's loop")
            mine = n_passes / _rate(heads[name], "featcache")
        else:
            theirs = n_passes * pil_s
            theirs += n_epochs * N_TRAIN * scratch["notebook_step_s_per_image"]
            mine = n_passes / _rate(scratch, "featcache")
        parts[system.name] = {"notebook_s": theirs, "featcache_s": mine}
    for name, result in extracted.items():
        extraction_s = (N_TRAIN + N_VAL + N_TEST) / _rate(result, "featcache")
        parts[f"extraction, {name}"] = {"notebook_s": 0.0, "featcache_s": extraction_s}
    whole = {
        side: sum(part[side] for part in parts.values()) for side in ("notebook_s", "featcache_s")
    }
    saved = 40 / 50.2  # of MobileNetV3's 50 epochs and its test
    shorter = {side: whole[side] - saved * parts["mobilenet-v3"][side] for side in whole}
    return {
        "parts": parts,
        **whole,
        "ratio": whole["notebook_s"] / whole["featcache_s"],
        "ratio_mobilenet_10_epochs": shorter["notebook_s"] / shorter["featcache_s"],
    }


def _rate(result: Result, name: str) -> float:
    [row] = [row for row in result["rows"] if row["name"] == name]
    return float(row["per_s"])


if __name__ == "__main__":
    main()
