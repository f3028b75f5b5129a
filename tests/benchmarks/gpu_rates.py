"""How fast is it on a GPU? Each part gives rates, and what bounds them."""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

import featcache
from featcache.config import HeadSpec
from featcache.core.arithmetic import arithmetic
from featcache.core.preprocess import Preprocess
from featcache.features.rows import FeatureRows
from featcache.images.transform import BatchPreprocessor
from featcache.training.cuda_graphs import SWITCH
from featcache.training.sweeps.head_bank import HeadBank, Member, MemberState
from tests.benchmarks import peers_heads
from tests.benchmarks.gpu_subjects import Bench, Figures, module, noise, noisy_dataset
from tests.benchmarks.limits import FLOP_PER_IMAGE
from tests.benchmarks.measure import close, compare, table
from tests.benchmarks.peers_heads import bank_epoch, synthetic_rows

N_FEATURES = {"vgg16": 25_088, "mobilenet_v3_large": 960}


def limits(bench: Bench) -> Figures:
    """Measure what the machine allows: copies, digests, writes, matrix products."""
    figures: Figures = {"cores": os.cpu_count()}
    size = 1 << 20 if bench.is_rehearsal else 1 << 28
    source = torch.rand(size, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds(lambda: target.copy_(source))
    figures["copy_on_the_device_gb_per_s"] = 2 * source.nbytes / seconds / 1e9
    if not bench.is_rehearsal:
        for kind, pinned in (("pinned", True), ("pageable", False)):
            host = torch.empty(size, pin_memory=pinned)
            to_s = bench.seconds(lambda h=host: target.copy_(h, non_blocking=True))
            from_s = bench.seconds(lambda h=host: h.copy_(target, non_blocking=True))
            figures[f"to_the_device_{kind}_gb_per_s"] = host.nbytes / to_s / 1e9
            figures[f"from_the_device_{kind}_gb_per_s"] = host.nbytes / from_s / 1e9
        square = torch.rand(8192, 8192, device=bench.device, dtype=torch.bfloat16)
        product_s = bench.seconds(lambda: square @ square)
        figures["bf16_tflop_per_s"] = 2 * 8192**3 / product_s / 1e12
    piece = np.random.default_rng(0).bytes(64 << 20)
    started = time.perf_counter()
    hashlib.sha256(piece)
    figures["sha256_gb_per_s"] = len(piece) / (time.perf_counter() - started) / 1e9
    for folder in (tempfile.gettempdir(), "/dev/shm"):
        figures[f"write {folder}"] = _written(Path(folder), piece, 1 if bench.is_rehearsal else 32)
    return figures


def _written(folder: Path, piece: bytes, n: int) -> Figures:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        started = time.perf_counter()
        for i in range(n):
            os.pwrite(file.fileno(), piece, i * len(piece))
        written_s = time.perf_counter() - started
        os.fdatasync(file.fileno())
        synced_s = time.perf_counter() - started
    gigabytes = n * len(piece) / 1e9
    return {"gb_per_s": gigabytes / written_s, "with_sync_gb_per_s": gigabytes / synced_s}


def backbones(bench: Bench) -> Figures:
    """Time backbones on a resident batch, alone and with preprocessing, in both memory formats."""
    figures: Figures = {}
    prepare = BatchPreprocessor(
        Preprocess.notebook(bench.side), in_size=(32, 32), device=torch.device(bench.device)
    )
    resident = torch.from_numpy(noise(bench.batch_size)).to(bench.device)
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    for name in bench.backbones:
        for precision in bench.precisions:
            for words, memory_format in formats.items():
                moved = module(name, bench.side).to(bench.device, memory_format=memory_format)  # type: ignore[call-overload]
                with arithmetic(precision, bench.device):
                    inputs = prepare(resident).contiguous(memory_format=memory_format)
                    alone_s = bench.seconds(lambda m=moved, x=inputs: m(x))
                    whole_s = bench.seconds(
                        lambda m=moved, f=memory_format: m(
                            prepare(resident).contiguous(memory_format=f)
                        )
                    )
                figures[f"{name} {precision} {words}"] = {
                    "img_per_s": bench.batch_size / alone_s,
                    "with_preprocessing_img_per_s": bench.batch_size / whole_s,
                    "tflop_per_s": FLOP_PER_IMAGE.get(name, 0.0)
                    * bench.batch_size
                    / alone_s
                    / 1e12,
                }
                del moved
    return figures


def extractions(bench: Bench) -> Figures:
    """Run `featcache.extract` on all images, into memory and onto the disk."""
    figures: Figures = {}
    dataset = noisy_dataset(bench.n_images)
    disk = tempfile.gettempdir()
    cases = [
        ("vgg16", "bf16", "float32", "/dev/shm"),
        ("vgg16", "bf16", "float16", disk),
        ("vgg16", bench.default_precision, "float32", disk),
        ("mobilenet_v3_large", "bf16", "float32", disk),
        ("mobilenet_v3_large", bench.default_precision, "float32", disk),
    ]
    for name, precision, store_dtype, where in cases:
        if not bench.is_rehearsal:
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory(dir=where) as folder:
            result = bench.extract(
                dataset, folder, backbone=name, precision=precision, store_dtype=store_dtype
            )
        figures[f"{name} {precision} {store_dtype} in {where}"] = {
            "img_per_s": result.images_per_s,
            "fill_s": result.n_rows / result.images_per_s,
            "whole_call_s": result.seconds,
            "by_phase": dict(result.seconds_by_phase),
            "choices": dict(result.choices),
            "peak_gpu_gb": 0.0 if bench.is_rehearsal else torch.cuda.max_memory_allocated() / 1e9,
        }
    return figures


def image_files(bench: Bench) -> Figures:
    """Extract a folder of photos of 500 x 375 after CUDA has begun, beside a bare Pillow loop."""
    n, rng = (24 if bench.is_rehearsal else 3_000), np.random.default_rng(0)
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for split, size in (("train", n), ("test", 20)):
            for i in range(size):
                place = Path(folder) / split / f"class{i % 2}"
                place.mkdir(parents=True, exist_ok=True)
                small = rng.integers(0, 256, (94, 125, 3), np.uint8)
                Image.fromarray(small).resize((500, 375)).save(place / f"{i}.jpg")
        files = sorted(Path(folder).glob("train/*/*.jpg"))[:200]
        started = time.perf_counter()
        for file in files:
            np.asarray(Image.open(file).convert("RGB").resize((bench.side, bench.side)))
        figures["bare Pillow loop, img_per_s on one core"] = len(files) / (
            time.perf_counter() - started
        )
        for n_workers in (2,) if bench.is_rehearsal else (8, 16):
            with tempfile.TemporaryDirectory() as cache_dir:
                result = featcache.extract(
                    f"folder:{folder}",
                    backbone="mobilenet_v3_large",
                    weights="random",
                    image_size=bench.side,
                    device=bench.device,
                    cache_dir=cache_dir,
                    n_workers=n_workers,
                    compile="never",
                    batch_size=bench.batch_size,
                )
            figures[f"{n_workers} workers"] = {
                "img_per_s": result.images_per_s,
                "by_phase": dict(result.seconds_by_phase),
            }
    return figures


def head_epochs(bench: Bench) -> Figures:
    """Compare ways to train an epoch of 40,000 rows on resident features."""
    figures = {}
    for name, n_features in N_FEATURES.items():
        rows = synthetic_rows(bench.n_rows, n_features, torch.device(bench.device))
        listed = peers_heads.peers(rows, n_features)
        title = f"An epoch of the {name} head, {bench.n_rows:,} rows of {n_features:,}"
        result = compare(title, listed, gate=close(1e-4), repeats=3, unit="rows")
        figures[name] = {"table": table(result), "rows": result["rows"]}
        del rows, listed
    return figures


def replayed_steps(bench: Bench) -> Figures:
    """Time an epoch with steps replayed and as they are, in turn; all their losses must agree."""
    figures: Figures = {}
    for name, n_features in N_FEATURES.items():
        rows = synthetic_rows(bench.n_rows, n_features, torch.device(bench.device))
        epochs: Mapping[str, Callable[[], tuple[float, torch.Tensor]]] = {
            reg: lambda r=rows, d=n_features, g=reg: _seeded_epoch(r, d, HeadSpec(reg=g))
            for reg in ("none", "l1l2", "dropout")
        }
        epochs = {**epochs, "32 mixed": lambda r=rows, d=n_features: _mixed_bank_epoch(r, d)}
        for kind, epoch in epochs.items():
            gate, seconds, gains = close(1e-4), [], []
            for _ in range(4):
                with mock.patch.dict(os.environ, {SWITCH: "1"}):
                    replayed_s, losses = epoch()  # a step that cannot be replayed is an error
                with mock.patch.dict(os.environ, {SWITCH: "0"}):
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


def many_heads(bench: Bench) -> Figures:
    """Time K MobileNet heads side by side over the rows of an epoch."""
    rows = synthetic_rows(bench.n_rows, 960, torch.device(bench.device))
    seconds = {}
    for n_heads in (1, 8, 32, 128):
        bank_epoch(rows, 960, n_heads)
        seconds[n_heads] = statistics.median(bank_epoch(rows, 960, n_heads)[0] for _ in range(3))
    return {"seconds": seconds, "32 heads by one": seconds[32] / seconds[1]}
