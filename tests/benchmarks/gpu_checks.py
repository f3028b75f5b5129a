"""Is it right on a GPU? Each part asserts what must hold, and gives the figures."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from typing import Any
from unittest import mock

import numpy as np
import torch

import featcache
from featcache.backbones.torchvision_weights import weights_preprocess
from featcache.config import HeadSpec
from featcache.core.memory import free_memory
from featcache.core.preprocess import Preprocess
from featcache.extraction.progress import Progress
from featcache.images.transform import BatchPreprocessor
from featcache.training.cuda_graphs import SWITCH
from featcache.training.train_result import TrainResult
from tests.benchmarks.gpu_subjects import Bench, Figures, digest, noise, noisy_dataset
from tests.benchmarks.peers_heads import bank_epoch, bare_epoch, synthetic_rows

# What a user may have set before, by torch's own documented means.
_SETTINGS = {
    "default": "pass",
    "high": "torch.set_float32_matmul_precision('high')",
    "old: no tf32": "torch.backends.cudnn.allow_tf32 = False",
    "old: tf32 matmul": "torch.backends.cuda.matmul.allow_tf32 = True",
    "new: tf32 matmul": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "new: ieee convolutions": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "new: all tf32": "torch.backends.fp32_precision = 'tf32'",
}
_UNDER_A_SETTING = """
import sys, torch
{setting}
from featcache.core.arithmetic import arithmetic, head_arithmetic
torch.manual_seed(0)
images, conv = torch.rand(8, 256, 28, 28), torch.nn.Conv2d(256, 256, 3)
rows, linear = torch.rand(64, 4096), torch.nn.Linear(4096, 512)
expected = conv.double()(images.double()), linear.double()(rows.double())
conv, linear, images, rows = (x.float().to("{device}") for x in (conv, linear, images, rows))
for precision in {precisions}:
    with arithmetic(precision, "{device}"):
        found = conv(images), linear(rows)
    errors = [((f.double().cpu() - e).norm() / e.norm()).item() for f, e in zip(found, expected)]
    print(precision, *errors)
with head_arithmetic("{device}"):
    error = (linear(rows).double().cpu() - expected[1]).norm() / expected[1].norm()
    print("head", 0.0, error.item())
"""


def precision_under_settings(bench: Bench) -> Figures:
    """Compare convolutions and linear layers with float64, whatever the user has set."""
    precisions = tuple(p for p in bench.precisions if p in ("fp32", "tf32"))
    children = {}
    for name, setting in _SETTINGS.items():
        code = _UNDER_A_SETTING.format(
            setting=setting, device=bench.device, precisions=repr(precisions)
        )
        children[name] = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    figures: Figures = {}
    for name, child in children.items():
        said, _ = child.communicate()
        assert child.returncode == 0, name
        for line in said.splitlines():
            precision, conv, linear = line.split()
            figures[f"{name}: {precision}"] = {"conv": float(conv), "linear": float(linear)}
            assert float(linear) < 2e-6, figures
            if precision == "tf32":
                assert 1e-5 < float(conv) < 2e-3, figures
            else:
                assert float(conv) < 2e-6, figures
    return figures


def pixels(bench: Bench) -> Figures:
    """Compare preprocessed images bit for bit with the CPU's, and time them."""
    figures: Figures = {}
    cases = {
        "32 to 224": (Preprocess.notebook(224), (32, 32), bench.batch_size + 7),
        "weights, 300x200": (weights_preprocess("vgg16", "DEFAULT", 224), (300, 200), 9),
        "500x375 to 224": (Preprocess.notebook(224), (500, 375), 5),
    }
    for name, (preprocess, size, n) in cases.items():
        images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (n, *size, 3), "u1"))
        expected = BatchPreprocessor(preprocess, size, torch.device("cpu"))(images)
        prepare = BatchPreprocessor(preprocess, size, torch.device(bench.device))
        there = images.to(bench.device)
        with torch.inference_mode():
            assert torch.equal(expected, prepare(there).cpu()), name
            figures[name] = {"img_per_s": n / bench.seconds(lambda p=prepare, x=there: p(x))}
    return figures


def features(bench: Bench) -> Figures:
    """Compare features with the CPU's in fp32, with themselves, padded and in flight."""
    figures: Figures = {}
    n = min(64, bench.batch_size)
    limits = {"fp32": (0.0, 1e-4), "tf32": (1e-5, 5e-3), "bf16": (0.0, 5e-2), "fp16": (0.0, 1e-2)}
    for name in bench.backbones:
        on_cpu = bench.runner(name, "fp32", device="cpu")
        on_cpu.batch_size = n
        expected = on_cpu.features(noise(n))
        for precision in bench.precisions:
            runner = bench.runner(name, precision)
            images = noise(bench.batch_size)
            found, again = runner.features(images), runner.features(images)
            assert found.tobytes() == again.tobytes(), f"{name} {precision}: two runs differ"
            few = runner.features(images[:3])
            assert few.tobytes() == found[:3].tobytes(), f"{name} {precision}: padding changes bits"
            batches = [noise(bench.batch_size, seed=seed) for seed in range(6)]
            flights = [runner.launch(batch) for batch in batches]  # are buffers used too early?
            for flight, batch in zip(flights, batches, strict=True):
                rows = flight.rows().numpy()
                assert rows.tobytes() == runner.features(batch).tobytes(), f"{name}: in flight"
            if precision == "fp16" and np.abs(expected).max() < np.finfo(np.float16).tiny:
                figures[f"{name} {precision}"] = "random weights leave features below its range"
                continue
            error = np.abs(runner.features(noise(n)) - expected).max() / np.abs(expected).max()
            figures[f"{name} {precision}"] = float(error)
            low, high = (0.0, 5e-2) if bench.is_rehearsal else limits[precision]
            assert low <= error <= high, figures
            del runner, flights
    return figures


def same_bytes(bench: Bench) -> Figures:
    """Cut extractions in their middle: the resumed file is the one of an uncut run."""
    figures: Figures = {}
    dataset = noisy_dataset(16 * bench.batch_size + bench.batch_size // 2)
    cases = {
        bench.default_precision: {"precision": bench.default_precision},
        "bf16": {"precision": "bf16"},
        "adapted": {"backbone": "mobilenet_v3_large", "bn": "adapted"},
        "float16": {"store_dtype": "float16"},
    }

    def cut(progress: Progress) -> None:
        if progress.stage == "extract" and progress.n_done > progress.n_total // 2:
            raise KeyboardInterrupt

    for name, options in cases.items():
        options = {"backbone": bench.backbones[0], **options}
        with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as resumed:
            first = bench.extract(dataset, whole, **options)
            with contextlib.suppress(KeyboardInterrupt, featcache.FeatcacheError):
                bench.extract(dataset, resumed, on_progress=cut, **options)
            second = bench.extract(dataset, resumed, **options)
            assert second.outcome == "resumed", name
            assert digest(first.path) == digest(second.path), name
            figures[name] = {"same": True, "img_per_s": first.images_per_s}
    return figures


def memory(bench: Bench) -> Figures:
    """Extract on a card that gets smaller: one batch size must mean one set of bits."""
    if bench.is_rehearsal:
        return {}
    name, figures = bench.backbones[0], Figures()
    figures["free_gb_before"] = free_memory(bench.device).n_bytes / 1e9
    with tempfile.TemporaryDirectory() as folder:
        bench.extract(noisy_dataset(2 * bench.batch_size), folder, backbone=name)
    figures["free_gb_after_an_extraction"] = free_memory(bench.device).n_bytes / 1e9
    figures["reserved_gb"] = torch.cuda.memory_reserved() / 1e9
    assert figures["free_gb_after_an_extraction"] > 0.95 * figures["free_gb_before"], figures
    total = torch.cuda.get_device_properties(0).total_memory
    hashes: dict[int, set[str]] = {}
    for limit_gb in (30, 10, 7, 5, 3, 2):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(limit_gb * 1e9 / total)
        runner = bench.runner(name, "tf32")
        try:
            size = runner.probe((32, 32, 3), may_halve=True)
            bits = hashlib.sha256(runner.features(noise(min(8, size))).tobytes()).hexdigest()[:8]
            hashes.setdefault(size, set()).add(bits)
            figures[f"{limit_gb} GB"] = [size, bits]
        except featcache.FeatcacheError as err:
            figures[f"{limit_gb} GB"] = str(err)[:200]
        del runner
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert hashes, figures
    assert all(len(each) == 1 for each in hashes.values()), figures
    return figures


def losses(bench: Bench) -> Figures:
    """Compare the losses of 100 steps with the CPU's, alone and side by side."""
    rows = {d: synthetic_rows(6_400, 960, torch.device(d)) for d in ("cpu", bench.device)}
    found = {d: bare_epoch(r, 960, HeadSpec(), fused=True)[1] for d, r in rows.items()}
    bank = bank_epoch(rows[bench.device], 960, 8)[1]
    figures = {
        "one head": (found[bench.device] / found["cpu"] - 1).abs().max().item(),
        "first of 8 side by side": (bank / found["cpu"] - 1).abs().max().item(),
    }
    assert max(figures.values()) <= 1e-4, figures
    return figures


def heads(bench: Bench) -> Figures:
    """Train by the front door: the same bits twice, replayed too, whatever the user has set."""
    dataset = noisy_dataset(3_000 if bench.is_rehearsal else 60_000)
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = bench.extract(dataset, folder, backbone="mobilenet_v3_large", image_size=32).path

        def train(**options: Any) -> tuple[TrainResult, str, Any, float]:
            settings = {"device": bench.device, "lr": 1e-4, "max_epochs": 3, "patience": 0}
            asked: dict[str, Any] = settings | options
            with tempfile.TemporaryDirectory() as runs:
                started = time.perf_counter()
                result = featcache.train_head(cache, runs_dir=runs, **asked)
                seconds = time.perf_counter() - started
                history = [(e["train_loss"], e["val_loss"]) for e in result.runs[0].history]
                return result, digest(result.path / "head.safetensors"), history, seconds

        replayed = {reg: train(reg=reg) for reg in ("none", "l1l2", "dropout")}
        for reg, (_, bits, _, seconds) in replayed.items():
            assert train(reg=reg)[1] == bits, f"{reg}: two trainings differ"
            figures[f"{reg} train_head_s"] = seconds
        torch.set_float32_matmul_precision("high")
        try:
            assert train()[1] == replayed["none"][1], "the user's setting changes a head"
        finally:
            torch.set_float32_matmul_precision("highest")
        if not bench.is_rehearsal:
            with mock.patch.dict(os.environ, {SWITCH: "0"}):
                for reg, (_, bits, history, _) in replayed.items():
                    _, plain, other, seconds = train(reg=reg)
                    assert plain == bits, f"{reg}: replayed steps give another head"
                    assert other == history, f"{reg}: replayed steps give other losses"
                    figures[f"{reg} without replay, train_head_s"] = seconds
        [(on_cpu, _)] = train(device="cpu", max_epochs=1)[2]
        (on_gpu, _), *_ = replayed["none"][2]
        figures["first epoch's loss against the CPU's"] = abs(on_gpu / on_cpu - 1)
        assert figures["first epoch's loss against the CPU's"] <= 1e-4, figures
        with tempfile.TemporaryDirectory() as runs:
            started = time.perf_counter()
            swept = featcache.sweep(
                cache,
                reg=("none", "l1l2", "dropout"),
                lr=(1e-4, 1e-3),
                device=bench.device,
                runs_dir=runs,
                max_epochs=2,
                patience=0,
            )
            figures["sweep of 6 heads, 2 epochs, s"] = time.perf_counter() - started
            run = swept.settings[0].runs[0]
            found = featcache.evaluate(
                run, device=bench.device, cache_dir=folder, runs_dir=runs, draws=10
            )
            figures["eval test_acc"] = found.acc.value
        figures["windowed train_head_s"] = train(max_memory=2 * cache.stat().st_size // 3)[3]
    return figures
