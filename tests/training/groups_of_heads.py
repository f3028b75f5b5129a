"""Small groups of heads."""

from __future__ import annotations

from pathlib import Path

from featcache.config import HeadSpec, TrainSpec
from featcache.training.sweeps.entry import Entry
from featcache.training.sweeps.groups import HeadGroup, groups_of
from featcache.training.sweeps.head_bank import Member


def entry_of(folder: Path, seed: int, *, hidden: tuple[int, ...] = (8,), lr: float = 0.1) -> Entry:
    train = TrainSpec(lr=lr, seed=seed, order_seed=0, max_epochs=2, patience=0, batch_size=16)
    path = folder / "runs" / "folder-toys" / f"toy-{lr:g}-{seed}-{len(hidden)}"
    return Entry(path, Member(path.name, HeadSpec(hidden=hidden), lr, seed), train)


def groups_in(folder: Path, n_heads: int = 3) -> list[HeadGroup]:
    """Groups of one head each."""
    stem = folder / "runs" / "folder-toys" / "sweep-00000000"
    entries = [entry_of(folder, seed, hidden=(4 + seed,)) for seed in range(n_heads)]
    for entry in entries:
        entry.path.parent.mkdir(parents=True, exist_ok=True)
    return groups_of(entries, stem, n_features=12, n_classes=3)
