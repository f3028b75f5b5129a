"""Time a head's epoch through HeadModule and a Trainer against a bare PyTorch loop.

Both run in this process, in turn, on the same resident features with the same batches and fused
Adam; the losses must agree first. Usage: python tests/benchmarks/heads.py OUT.json
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

import featcache
from featcache.datamodule import EpochOrder, FeatureDataModule
from featcache.features import FeatureRows
from featcache.headmodule import HeadModule
from featcache.trainer import quiet_lightning

N_TRAIN, N_CLASSES, BATCH_SIZE, REPEATS = 40_000, 10, 64, 5
HEADS = {"mobilenet_v3_large": 960, "vgg16": 25_088}


class Resident(FeatureDataModule):
    """Synthetic resident features instead of a cache's; no validation: the epoch alone is timed."""

    def __init__(self, rows: FeatureRows, *, steps_per_batch: int) -> None:
        pl.LightningDataModule.__init__(self)
        self.batch_size, self.steps_per_batch = BATCH_SIZE, steps_per_batch
        self.train_split = "train"
        self._loaded = {"train": rows}
        self.sampler = EpochOrder(torch.arange(len(rows.labels)), seed=0)

    def setup(self, stage: str = "fit") -> None:
        pass

    def val_dataloader(self) -> Any:
        return []


def main() -> None:
    [out] = sys.argv[1:]
    results = {name: measure(n_features) for name, n_features in HEADS.items()}
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "featcache": featcache.__version__,
    }
    Path(out).write_text(json.dumps({"machine": machine, "heads": results}, indent=2) + "\n")


def measure(n_features: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(N_TRAIN, n_features, generator=generator)
    labels = torch.randint(0, N_CLASSES, (N_TRAIN,), generator=generator)
    rows = FeatureRows(features, labels, torch.device("cpu"), None)
    seconds: dict[str, list[float]] = {"bare": [], "ours": [], "one_step_a_batch": []}
    bare_losses = bare_epoch(rows)[1]
    assert np.allclose(trainer_epoch(rows, 64)[1], bare_losses, rtol=1e-5), "the losses differ"
    for _ in range(REPEATS):
        seconds["bare"].append(bare_epoch(rows)[0])
        seconds["ours"].append(trainer_epoch(rows, 64)[0])
        seconds["one_step_a_batch"].append(trainer_epoch(rows, 1)[0])
    ratios = [ours / bare for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    result = {
        "n_features": n_features,
        "seconds": seconds,
        "median_s": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "divided_ms_a_step": divided(rows),
    }
    print(json.dumps({k: v for k, v in result.items() if k != "seconds"}))
    return result


def bare_epoch(rows: FeatureRows) -> tuple[float, list[float]]:
    head, adam = fresh(rows)
    sampler = EpochOrder(torch.arange(N_TRAIN), seed=0)
    losses = []
    started = time.perf_counter()
    for part in sampler.order().split(BATCH_SIZE):
        adam.zero_grad()
        loss = nn.functional.cross_entropy(
            head(rows.features.index_select(0, part)), rows.labels.index_select(0, part)
        )
        loss.backward()
        adam.step()
        losses.append(loss.detach())
    values = torch.stack(losses).tolist()
    return time.perf_counter() - started, values


def trainer_epoch(rows: FeatureRows, steps_per_batch: int) -> tuple[float, list[float]]:
    module = HeadModule(n_features=rows.features.shape[1], n_classes=N_CLASSES)
    with quiet_lightning(), tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        batches = Resident(rows, steps_per_batch=steps_per_batch)
        started = time.perf_counter()
        trainer.fit(module, batches)
        seconds = time.perf_counter() - started
    return seconds, torch.stack(module.step_losses).tolist()


def divided(rows: FeatureRows) -> dict[str, float]:
    """Median milliseconds of each part of a bare step."""
    head, adam = fresh(rows)
    parts: dict[str, list[float]] = {"gather": [], "forward": [], "backward": [], "adam": []}
    for part in torch.arange(N_TRAIN).split(BATCH_SIZE)[:200]:
        t0 = time.perf_counter()
        features, labels = rows.take(part)
        t1 = time.perf_counter()
        adam.zero_grad()
        loss = nn.functional.cross_entropy(head(features), labels)
        t2 = time.perf_counter()
        loss.backward()
        t3 = time.perf_counter()
        adam.step()
        t4 = time.perf_counter()
        for name, a, b in zip(parts, (t0, t1, t2, t3), (t1, t2, t3, t4), strict=True):
            parts[name].append(1e3 * (b - a))
    return {name: statistics.median(values) for name, values in parts.items()}


def fresh(rows: FeatureRows) -> tuple[nn.Sequential, torch.optim.Adam]:
    head = HeadModule(n_features=rows.features.shape[1], n_classes=N_CLASSES).head
    return head, torch.optim.Adam(head.parameters(), lr=1e-5, fused=True)


if __name__ == "__main__":
    main()
