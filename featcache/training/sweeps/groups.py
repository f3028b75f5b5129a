"""Groups of a grid's heads, cut by the grid alone: so a head is the same on any number of devices.

The last digits of a head depend on which heads stand beside it in a matrix product. A group is
trained by itself, with a checkpoint of its own; who trains it, and beside what, changes no bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.core.reporting import Choice, NoteCallback
from featcache.core.side_files import partial_path
from featcache.errors import counted
from featcache.features.datamodule import FeatureDataModule
from featcache.features.rows import n_inputs
from featcache.heads.mlp import n_parameters
from featcache.training.sweeps.bank_trainer import BankRun, SweepProgressCallback
from featcache.training.sweeps.entry import Entry, SweepCheckpoint
from featcache.training.sweeps.head_bank import order_in_bank
from featcache.training.sweeps.passes import loaded, still_pending

_MOST_HEADS = 8
_MOST_PARAMETERS = 1 << 26  # 2 GB with gradients, moments and copies


@dataclass(frozen=True, eq=False)
class HeadGroup:
    """Heads of one shape that are trained side by side.

    Attributes:
        number: Its place, from 0.
        entries: Its heads.
        checkpoint: File that keeps how far they are.
    """

    number: int
    entries: Sequence[Entry]
    checkpoint: Path

    @property
    def is_done(self) -> bool:
        """Whether all heads have their folders; those that broke off never have."""
        return all(entry.path.exists() for entry in self.entries)


def groups_of(
    grid: Sequence[Entry], stem: Path, *, n_features: int, n_classes: int
) -> list[HeadGroup]:
    """Cut a grid into groups; the order in which it was typed does not matter.

    Args:
        grid: All heads, finished ones too.
        stem: What the sweep's own files are named by.
        n_features: Numbers that a row is for a head.
        n_classes: Classes.
    """
    by_shape = sorted(grid, key=lambda e: (e.member.spec.hidden, order_in_bank(e.member)))
    groups: list[HeadGroup] = []
    for _, of_shape in itertools.groupby(by_shape, lambda e: e.member.spec.hidden):
        entries = list(of_shape)
        n = n_parameters(entries[0].member.spec, n_features=n_features, n_classes=n_classes)
        for part in _cut(entries, max(1, min(_MOST_HEADS, _MOST_PARAMETERS // n))):
            checkpoint = partial_path(stem.with_name(f"{stem.name}-group-{len(groups)}"))
            groups.append(HeadGroup(len(groups), part, checkpoint))
    return groups


def train_group(
    group: HeadGroup,
    batches: FeatureDataModule,
    *,
    on_progress: SweepProgressCallback,
    on_note: NoteCallback,
) -> int:
    """Train what is missing of a group, or go on with it.

    Args:
        group: The group; a head that breaks off gets its problem.
        batches: The features, loaded.
        on_progress: Called after every few steps.
        on_note: Told each choice.

    Returns:
        How many heads were trained.

    Raises:
        InterruptedRunError: On a wish to stop; all heads are kept as of the last whole epoch.
    """
    checkpoint = group.checkpoint
    kept = _kept_of(group)
    broken = dict(kept.broken) if kept else {}
    pending = still_pending(group.entries, broken)
    if not pending:
        return 0
    goes_on = kept is not None and all(entry.member.key in kept.heads for entry in pending)
    if kept is not None and goes_on:
        heads = counted(len(pending), "head")
        on_note(f"group {group.number + 1} goes on after epoch {kept.epoch}, {heads} at once")
    BankRun(
        pending,
        batches,
        device=batches.device,
        checkpoint=checkpoint,
        kept=kept if goes_on else None,
        broken=broken,
        on_progress=on_progress,
        on_note=on_note,
    ).run()
    # The sweep may be cut before its end: what broke off is not tried again then.
    SweepCheckpoint(epoch=0, heads={}, states={}, broken=broken).write(checkpoint)
    return len(pending)


def n_pending(group: HeadGroup) -> int:
    """Count the heads that `train_group` would train; those that broke off before are none."""
    kept = _kept_of(group)
    return len(still_pending(group.entries, kept.broken if kept else {}))


def train_groups_here(
    grid: Sequence[Entry],
    batches: FeatureDataModule,
    *,
    stem: Path,
    on_progress: SweepProgressCallback,
    on_note: NoteCallback,
) -> tuple[int, Choice[str]]:
    """Train one group after the other in this process; as `GridTraining`."""
    residence = loaded(batches, on_note)
    n_trained = 0
    for group in groups_on(grid, stem, batches):
        n_trained += train_group(group, batches, on_progress=on_progress, on_note=on_note)
    return n_trained, residence


def groups_on(grid: Sequence[Entry], stem: Path, batches: FeatureDataModule) -> list[HeadGroup]:
    """Cut a grid into groups for the cache of these batches."""
    n_classes = len(batches.cache.class_names)
    return groups_of(grid, stem, n_features=n_inputs(batches.cache), n_classes=n_classes)


def _kept_of(group: HeadGroup) -> SweepCheckpoint | None:
    return SweepCheckpoint.read(group.checkpoint) if group.checkpoint.exists() else None


def _cut(entries: Sequence[Entry], n: int) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), n):
        yield entries[start : start + n]
