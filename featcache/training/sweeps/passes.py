"""Heads that one process trains: all side by side, in as many passes as memory asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from featcache.core.memory import free_memory
from featcache.core.reporting import Choice, NoteCallback
from featcache.core.side_files import partial_path
from featcache.errors import counted
from featcache.features.datamodule import FeatureDataModule
from featcache.features.rows import n_inputs
from featcache.heads.mlp import n_parameters
from featcache.store import Cache, human_bytes
from featcache.training.sweeps.bank_trainer import BankRun, SweepProgressCallback
from featcache.training.sweeps.entry import Entry, EntryState, SweepCheckpoint
from featcache.training.sweeps.head_bank import BYTES_PER_PARAMETER


class GridTraining(Protocol):
    """Trains the heads of a grid that are missing."""

    def __call__(
        self,
        grid: Sequence[Entry],
        batches: FeatureDataModule,
        *,
        stem: Path,
        on_progress: SweepProgressCallback,
        on_note: NoteCallback,
    ) -> tuple[int, Choice[str]]:
        """Write their folders, or note in their state why one broke off.

        Args:
            grid: All heads; one at least has no folder yet.
            batches: The features; their device is chosen.
            stem: What the sweep's own files are named by.
            on_progress: Called after every few steps.
            on_note: Told each choice.

        Returns:
            How many were trained now, and where the features stayed.
        """
        ...


def train_in_passes(
    grid: Sequence[Entry],
    batches: FeatureDataModule,
    *,
    stem: Path,
    on_progress: SweepProgressCallback,
    on_note: NoteCallback,
) -> tuple[int, Choice[str]]:
    """Train heads side by side; those that a checkpoint keeps come first. As `GridTraining`."""
    device = batches.device
    residence = loaded(batches, on_note)
    checkpoint = partial_path(stem)
    kept = SweepCheckpoint.read(checkpoint) if checkpoint.exists() else None
    broken = dict(kept.broken) if kept else {}
    pending = still_pending(grid, broken)
    first = [entry for entry in pending if kept and entry.member.key in kept.heads]
    if kept and first:
        on_note(f"going on after epoch {kept.epoch}, {counted(len(first), 'head')} at once")
    later = [entry for entry in pending if entry not in first]
    passes = _passes(later, batches.cache, device=str(device), on_note=on_note)
    for entries in (first, *passes) if first else passes:
        BankRun(
            entries,
            batches,
            device=device,
            checkpoint=checkpoint,
            kept=kept if entries is first else None,
            broken=broken,
            on_progress=on_progress,
            on_note=on_note,
        ).run()
    return len(pending), residence


def still_pending(entries: Sequence[Entry], broken: Mapping[str, EntryState]) -> list[Entry]:
    """List the heads that have no folder and are not known to break off; these get their state."""
    missing = [entry for entry in entries if not entry.path.exists()]
    for entry in missing:
        entry.state = broken.get(entry.member.key, entry.state)
    return [entry for entry in missing if not entry.state.problem]


def loaded(batches: FeatureDataModule, on_note: NoteCallback) -> Choice[str]:
    """Load what stays in windows, or in the file; say where the features stay."""
    residence = batches.choose_residence(batches.device)
    on_note(f"features stay in {residence.told}")
    for split in {batches.train_split, batches.val_split}:
        batches.load(split, batches.device)
    return residence


def _passes(
    entries: Sequence[Entry], cache: Cache, *, device: str, on_note: NoteCallback
) -> Iterable[list[Entry]]:
    """Divide heads into passes whose weights, gradients and moments fit into half the memory."""
    free, kind = min(free_memory(device), free_memory("cpu"))
    room = free // 2
    n_features, n_classes = n_inputs(cache), len(cache.class_names)
    one_pass: list[Entry] = []
    needed = 0
    for entry in entries:
        n = n_parameters(entry.member.spec, n_features=n_features, n_classes=n_classes)
        if one_pass and needed + n * BYTES_PER_PARAMETER > room:
            on_note(
                f"{counted(len(one_pass), 'head')} in this pass: more need over "
                f"{human_bytes(room)}, half of the {kind} that is free"
            )
            yield one_pass
            one_pass, needed = [], 0
        one_pass.append(entry)
        needed += n * BYTES_PER_PARAMETER
    if one_pass:
        yield one_pass
