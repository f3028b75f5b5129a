"""Ways to train one epoch of a head on cached features."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from featcache.config import HeadSpec
from featcache.core.process_wide import nvml_left_alone
from featcache.features.batches import STEPS_PER_BATCH, STEPS_PER_BATCH_PIXELS
from featcache.features.datamodule import FeatureDataModule
from featcache.features.order import EpochOrder
from featcache.features.rows import FeatureRows
from featcache.training.module import HeadModule
from featcache.training.sweeps.head_bank import HeadBank, Member, MemberState
from featcache.training.trainer import quiet_lightning
from tests.benchmarks.allocator import freed_memory_kept
from tests.benchmarks.measure import Peer, left_out

BATCH_SIZE, N_CLASSES, LR = 64, 10, 1e-5
SKLEARN = "scikit-learn's MLPClassifier"


def synthetic_rows(n: int, n_features: int, device: torch.device) -> FeatureRows:
    """Make resident features, as a cache's would be."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(n, n_features, generator=generator).to(device)
    labels = torch.randint(0, N_CLASSES, (n,), generator=generator).to(device)
    return FeatureRows(features, labels, device, None)


def peers(
    rows: FeatureRows, n_inputs: int, *, hidden: tuple[int, ...] = (50, 20), n_slow: int = 0
) -> list[Peer]:
    """List the ways; with `n_slow`, those too that read so many rows one at a time."""
    n = len(rows.labels)
    spec = HeadSpec(hidden=hidden)

    def ours() -> tuple[float, Tensor]:
        return trainer_epoch(rows, n_inputs, spec)

    listed = [
        Peer("featcache", ours, n),
        Peer("bare loop, fused Adam", lambda: bare_epoch(rows, n_inputs, spec, fused=True), n),
        Peer("bare loop, default Adam", lambda: bare_epoch(rows, n_inputs, spec, fused=False), n),
    ]
    if rows.prepare is None:
        listed.append(
            Peer(
                "Lightning's defaults on a TensorDataset",
                lambda: _plain_lightning_epoch(rows, n_inputs, spec),
                n,
            )
        )
    if rows.prepare is None and rows.device.type == "cpu" and not sklearn_left_out():
        listed.append(Peer(SKLEARN, lambda: _sklearn_epoch(rows, n_inputs, spec), n))
    if n_slow:
        for chunks, words in ((None, "contiguous"), (True, "automatic chunks")):
            listed.append(
                Peer(
                    f"h5py Dataset, one row a read, {words}",
                    lambda chunks=chunks: _h5py_epoch(rows, n_inputs, spec, n_slow, chunks),
                    n_slow,
                )
            )
    return listed


def sklearn_left_out() -> str | None:
    """Say that scikit-learn is not installed; None if it is."""
    return left_out(SKLEARN, {"sklearn": "scikit-learn"})


def bare_epoch(
    rows: FeatureRows, n_inputs: int, spec: HeadSpec, *, fused: bool
) -> tuple[float, Tensor]:
    """Run an epoch in plain PyTorch, batches by index from the resident tensor."""
    head = _head(n_inputs, spec).to(rows.device)
    adam = torch.optim.Adam(head.parameters(), lr=LR, fused=fused)
    losses = []
    started = time.perf_counter()
    with nvml_left_alone():  # a bare loop imports no Lightning, whose import sets it
        for part in _order(len(rows.labels)).to(rows.device).split(BATCH_SIZE):
            features, labels = rows.take(part)
            losses.append(_step(head, adam, features, labels))
    answer = torch.stack(losses).cpu()  # waits for a GPU
    return time.perf_counter() - started, answer


def bank_epoch(rows: FeatureRows, n_inputs: int, n_heads: int) -> tuple[float, Tensor]:
    """Run an epoch of many heads side by side; the answer is the first one's losses."""
    members = [Member(f"{i:03d}", HeadSpec(), LR, i) for i in range(n_heads)]
    states = [MemberState.initial(m, n_features=n_inputs, n_classes=N_CLASSES) for m in members]
    bank = HeadBank(members, states, device=rows.device)
    bank.set_epoch(0)
    parts = _order(len(rows.labels)).to(rows.device).split(BATCH_SIZE)
    started = time.perf_counter()
    with torch.no_grad(), freed_memory_kept():
        losses = [bank.step(*rows.take(part))[0] for part in parts]
    answer = torch.stack(losses).cpu()
    return time.perf_counter() - started, answer


def divided(
    rows: FeatureRows, n_inputs: int, *, hidden: tuple[int, ...] = (50, 20), n_steps: int = 200
) -> dict[str, float]:
    """Time the parts of a step of the bare loop: median milliseconds of the steps after a first."""
    head = _head(n_inputs, HeadSpec(hidden=hidden))
    adam = torch.optim.Adam(head.parameters(), lr=LR, fused=True)
    parts: dict[str, list[float]] = {"gather": [], "forward": [], "backward": [], "adam": []}
    with nvml_left_alone():
        for part in _order(len(rows.labels)).split(BATCH_SIZE)[: n_steps + 1]:
            times = [time.perf_counter()]
            features, labels = rows.take(part)
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


class _Resident(FeatureDataModule):
    """Rows that are there instead of a cache's; the epoch alone is timed, so no validation."""

    def __init__(self, rows: FeatureRows) -> None:
        pl.LightningDataModule.__init__(self)
        self.batch_size = BATCH_SIZE
        self.steps_per_batch = STEPS_PER_BATCH if rows.prepare is None else STEPS_PER_BATCH_PIXELS
        self.train_split = "train"
        self._loaded = {"train": rows}
        self.sampler = EpochOrder(torch.arange(len(rows.labels)), seed=0)

    def setup(self, stage: str = "fit") -> None:
        pass

    def val_dataloader(self) -> Any:
        return []


class _PlainModule(pl.LightningModule):
    """What a competent user writes: automatic optimisation, one log a step."""

    def __init__(self, n_inputs: int, spec: HeadSpec) -> None:
        super().__init__()
        self.head = _head(n_inputs, spec)
        self.losses: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.head(batch[0]), batch[1])
        self.log("train_loss", loss)
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.head.parameters(), lr=LR)


def trainer_epoch(rows: FeatureRows, n_inputs: int, spec: HeadSpec) -> tuple[float, Tensor]:
    """Run an epoch as `train_head` does."""
    module = HeadModule(n_features=n_inputs, n_classes=N_CLASSES, head=spec, lr=LR)
    with freed_memory_kept(), nvml_left_alone():  # as headrun trains
        seconds = _fit(module, _Resident(rows), rows.device)
    return seconds, torch.stack(module.step_losses).cpu()


def _plain_lightning_epoch(
    rows: FeatureRows, n_inputs: int, spec: HeadSpec
) -> tuple[float, Tensor]:
    module = _PlainModule(n_inputs, spec)
    order = EpochOrder(torch.arange(len(rows.labels)), seed=0)
    # On the CPU even for a GPU: nobody indexes a GPU's tensor row by row.
    rows_there = TensorDataset(rows.features.cpu(), rows.labels.cpu())
    pinned = rows.device.type == "cuda"
    loader = DataLoader(rows_there, BATCH_SIZE, sampler=order, pin_memory=pinned)
    seconds = _fit(module, loader, rows.device)
    return seconds, torch.stack(module.losses).cpu()


def _sklearn_epoch(rows: FeatureRows, n_inputs: int, spec: HeadSpec) -> tuple[float, Tensor]:
    from tests.benchmarks.peers_sklearn import sklearn_epoch  # only where it is installed

    head, order = _head(n_inputs, spec), _order(len(rows.labels))
    return sklearn_epoch(rows.features, rows.labels, head, order, batch_size=BATCH_SIZE, lr=LR)


class _H5Rows(Dataset[tuple[Tensor, int]]):
    def __init__(self, path: Path) -> None:
        self.file = h5py.File(path)

    def __len__(self) -> int:
        return len(self.file["labels"])

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.file["features"][i]), int(self.file["labels"][i])


def _h5py_epoch(
    rows: FeatureRows, n_inputs: int, spec: HeadSpec, n: int, chunks: bool | None
) -> tuple[float, Tensor]:
    """Rows spread over the whole file, in the order of featcache's first batches."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=rows.features.cpu().numpy(), chunks=chunks)
            file.create_dataset("labels", data=rows.labels.cpu().numpy(), chunks=chunks)
        head = _head(n_inputs, spec).to(rows.device)
        adam = torch.optim.Adam(head.parameters(), lr=LR)
        losses = []
        loader = DataLoader(
            _H5Rows(path), BATCH_SIZE, sampler=_order(len(rows.labels))[:n].tolist()
        )
        started = time.perf_counter()
        with nvml_left_alone():  # nor does this one
            for features, labels in loader:
                losses.append(_step(head, adam, features.to(rows.device), labels.to(rows.device)))
        answer = torch.stack(losses).cpu()
        return time.perf_counter() - started, answer


def _fit(module: pl.LightningModule, batches: Any, device: torch.device) -> float:
    with quiet_lightning(), tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cuda" if device.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        started = time.perf_counter()
        trainer.fit(module, batches)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def _step(head: nn.Module, adam: torch.optim.Adam, features: Tensor, labels: Tensor) -> Tensor:
    adam.zero_grad()
    loss = nn.functional.cross_entropy(head(features), labels)
    loss.backward()
    adam.step()
    return loss.detach()


def _head(n_inputs: int, spec: HeadSpec) -> nn.Sequential:
    return HeadModule(n_features=n_inputs, n_classes=N_CLASSES, head=spec).head


def _order(n: int) -> Tensor:
    return EpochOrder(torch.arange(n), seed=0).order()
