"""Train many heads in one pass over the features; each stops, and is written, when it is done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from featcache.core.failures import device_failures_named
from featcache.core.reporting import NoteCallback
from featcache.core.side_files import partial_path
from featcache.core.stopping import stop_if_asked
from featcache.errors import InterruptedRunError, LockedError, counted
from featcache.features.batches import SuperBatch
from featcache.features.datamodule import FeatureDataModule
from featcache.features.order import EpochOrder
from featcache.features.rows import n_inputs
from featcache.heads.backbone_record import BackboneRecord
from featcache.heads.figures import SumsOfHeads, measure
from featcache.heads.head_file import save_head
from featcache.heads.mlp import build_head
from featcache.heads.run_files import head_of, run_of, write_figures, write_metrics
from featcache.heads.run_folder import begin_folder, finish_folder
from featcache.store import locked
from featcache.training.loss import TrainingLoss
from featcache.training.sweeps.entry import Entry, EntryState, SweepCheckpoint
from featcache.training.sweeps.head_bank import HeadBank, Member, MemberState

_STEPS_PER_TOLD = 16
_SECONDS_PER_SAVE = 30.0  # 128 heads of VGG16's features are 1.9 GB, and their epoch takes 2 s


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is.

    Attributes:
        n_heads: Heads of this pass.
        n_finished: Those that are done.
        epoch: Epochs that the others have seen.
        max_epochs: Epochs at most.
        n_done: Steps of all epochs that are done.
        n_total: Steps of all epochs.
        left_s: Seconds left, if no head stops early.
        best_val_loss: The lowest so far; NaN before the first epoch.
    """

    n_heads: int
    n_finished: int
    epoch: int
    max_epochs: int
    n_done: int
    n_total: int
    left_s: float
    best_val_loss: float


SweepProgressCallback = Callable[[SweepProgress], None]


class BankRun:
    """Trains heads side by side on one order of batches."""

    def __init__(
        self,
        entries: Sequence[Entry],
        batches: FeatureDataModule,
        *,
        device: torch.device,
        checkpoint: Path,
        kept: SweepCheckpoint | None,
        broken: dict[str, EntryState],
        on_progress: SweepProgressCallback,
        on_note: NoteCallback,
    ) -> None:
        """Take heads that share all but head, learning rate and seed, so also the loss.

        Args:
            entries: The heads, none of which is finished.
            batches: The features; its sampler gives the order.
            device: Where to train.
            checkpoint: File that keeps the heads after each epoch.
            kept: What it holds of these heads, to go on from; None starts them.
            broken: What is known of heads that broke off; kept along, and added to.
            on_progress: Called after every few steps.
            on_note: Told what else is in the folder of a head.
        """
        self.alive = list(entries)
        self.finished: list[Entry] = []
        self.broken = broken
        self.batches = batches
        self.record = BackboneRecord.of_cache(batches.cache)  # the file may be gone at the end
        self.device = device
        self.checkpoint = checkpoint
        self.on_progress = on_progress
        self.on_note = on_note
        self.epoch = 0
        self._saved_at = time.perf_counter()
        self._unsaved: SweepCheckpoint | None = None
        labels = batches.train_labels.to(device)
        n_classes = len(batches.cache.class_names)
        self._loss = TrainingLoss.of(self.alive[0].train, labels, n_classes=n_classes)
        self._states = self._initial() if kept is None else self._restored(kept)

    def run(self) -> None:
        """Train all heads to their ends.

        Raises:
            InterruptedRunError: On Ctrl-C; all heads are kept as of the last whole epoch.
            DeviceError: If the device fails or has no memory left; likewise.
        """
        n_heads = len(self.alive)
        failures = device_failures_named(
            str(self.device), "Training", kept=lambda: self._kept(n_heads)
        )
        self._started, self._n_before = time.perf_counter(), self.epoch * self._n_steps
        try:
            with torch.no_grad(), failures:
                try:
                    self._go_on(self._states)  # with heads whose folders a kill left unwritten
                    while self.alive:
                        self._run_epoch(n_heads)
                finally:
                    self._save()
        except KeyboardInterrupt as err:
            raise InterruptedRunError(
                f"Stopped. {self._kept(n_heads)} The same command goes on from there."
            ) from err

    def _kept(self, n_heads: int) -> str:
        others = f"the others are kept as of epoch {self.epoch}" if self.epoch else "no epoch is"
        return f"{len(self.finished)} of {counted(n_heads, 'head')} finished, {others}."

    def _run_epoch(self, n_heads: int) -> None:
        started = time.perf_counter()
        assert isinstance(self.batches.sampler, EpochOrder)
        self.batches.sampler.set_epoch(self.epoch)
        losses: dict[HeadBank, list[Tensor]] = {bank: [] for bank in self._banks}
        sizes = []
        for bank in self._banks:
            bank.set_epoch(self.epoch)
        for i, batch in enumerate(self.batches.train_dataloader()):
            assert not isinstance(batch, SuperBatch), "a bank takes one step a batch"
            stop_if_asked()
            features, labels = batch
            for bank, of_bank in losses.items():
                of_bank.append(bank.step(features, labels))
            sizes.append(len(labels))
            if i % _STEPS_PER_TOLD == 0:
                self._tell(n_heads, i + 1)
        self._judge({b: torch.stack(of_bank).cpu() for b, of_bank in losses.items()}, sizes)
        seconds = time.perf_counter() - started
        for entry in self.alive:
            share = seconds / len(self.alive)
            entry.state = replace(entry.state, seconds=entry.state.seconds + share)
        states = {m.key: state for bank in self._banks for m, state in bank.states()}
        for entry in self.alive:
            entry.keep_if_best(states[entry.member.key].parameters)
        # Kept before a folder is written: so a kill in between changes no bank of a later epoch,
        # and with it no bit of those that go on.
        is_any_done = any(entry.is_done for entry in self.alive)
        self.epoch += 1
        # Made now: what is entered of the next epoch before it breaks off is none of this one.
        self._unsaved = SweepCheckpoint(
            epoch=self.epoch,
            heads={entry.member.key: entry.state for entry in self.alive},
            states={e.member.key: _needed(e, states[e.member.key]) for e in self.alive},
            broken=dict(self.broken),
        )
        if is_any_done or time.perf_counter() - self._saved_at > _SECONDS_PER_SAVE:
            self._save()
        if is_any_done:
            self._go_on(states)

    def _go_on(self, states: Mapping[str, MemberState]) -> None:
        """Write the heads that are done, and put the others side by side."""
        done = [entry for entry in self.alive if entry.is_done]
        for entry in done:
            self._finish(entry, states[entry.member.key].parameters)
        self.alive = [entry for entry in self.alive if entry not in done]
        self._build(states)
        self._states = {}

    def _judge(self, losses: Mapping[HeadBank, Tensor], sizes: Sequence[int]) -> None:
        """Validate all heads, and enter the epoch into their histories."""
        sums = {bank: SumsOfHeads(len(bank.members)) for bank in losses}
        measure(self.batches.val_dataloader(), *((b.logits, summed) for b, summed in sums.items()))
        by_key = {entry.member.key: entry for entry in self.alive}
        for bank, of_bank in losses.items():
            for k, (member, found) in enumerate(zip(bank.members, sums[bank].figures, strict=True)):
                by_key[member.key].judge(of_bank[:, k], torch.tensor(sizes), found)

    def _finish(self, entry: Entry, parameters: Sequence[Tensor]) -> None:
        """Write the folder of a run, like any other; one that broke off has none."""
        self.finished.append(entry)
        state = entry.state
        if state.problem:
            self.broken[entry.member.key] = state
            return
        run = run_of(entry.path, entry.train, state.history, seconds=state.seconds)
        n_epochs = run.n_epochs
        if entry.train.select == "best":
            assert state.best is not None, "its first epoch was the best so far"
            parameters, n_epochs = state.best, run.best_epoch
        spec, cache = entry.member.spec, self.batches.cache
        module = build_head(
            spec, n_features=n_inputs(cache), n_classes=len(cache.class_names), seed=0
        )
        head = head_of(
            cache,
            spec,
            entry.train,
            dict(zip(module.state_dict(), parameters, strict=True)),
            rows=self.batches.n_rows,
            n_epochs=n_epochs,
            device=str(self.device),
            record=self.record,
        )
        try:
            with locked(entry.path, remove=True):
                if not entry.path.exists():
                    folder = partial_path(entry.path)
                    begin_folder(folder, self.on_note)
                    save_head(folder, head)
                    write_metrics(folder, state.history)
                    write_figures(folder, run)
                    finish_folder(folder, entry.path, self.on_note)
        except LockedError:  # train-head trains this very head; its folder is that one's
            problem = "another process trains this head; run the sweep again afterwards"
            entry.state = replace(state, problem=problem)

    def _build(self, states: Mapping[str, MemberState]) -> None:
        """Put the heads side by side, those of one shape in one bank."""
        self._banks: list[HeadBank] = []  # never the old ones beside the new
        by_shape: dict[tuple[int, ...], list[Member]] = {}
        for entry in self.alive:
            by_shape.setdefault(entry.member.spec.hidden, []).append(entry.member)
        self._banks = [
            HeadBank(members, [states[m.key] for m in members], device=self.device, loss=self._loss)
            for members in by_shape.values()
        ]

    def _initial(self) -> dict[str, MemberState]:
        cache = self.batches.cache
        n_features, n_classes = n_inputs(cache), len(cache.class_names)
        return {
            e.member.key: MemberState.initial(e.member, n_features=n_features, n_classes=n_classes)
            for e in self.alive
        }

    def _save(self) -> None:
        """Write what the checkpoint lacks of the last whole epoch."""
        content, self._unsaved = self._unsaved, None
        if content is None:
            return
        content.write(self.checkpoint)
        self._saved_at = time.perf_counter()

    def _restored(self, kept: SweepCheckpoint) -> Mapping[str, MemberState]:
        self.epoch = kept.epoch
        for entry in self.alive:
            entry.state = kept.heads[entry.member.key]
        return kept.states

    @property
    def _n_steps(self) -> int:
        return len(self.batches.train_dataloader())

    def _tell(self, n_heads: int, n_steps: int) -> None:
        max_epochs = self.alive[0].train.max_epochs
        n_done = self.epoch * self._n_steps + n_steps
        n_total = max_epochs * self._n_steps
        seconds = time.perf_counter() - self._started
        states = [entry.state for entry in (*self.alive, *self.finished)]
        losses = [state.best_loss for state in states if state.history]
        self.on_progress(
            SweepProgress(
                n_heads=n_heads,
                n_finished=len(self.finished),
                epoch=self.epoch,
                max_epochs=max_epochs,
                n_done=n_done,
                n_total=n_total,
                left_s=seconds / (n_done - self._n_before) * (n_total - n_done),
                best_val_loss=min(losses, default=math.nan),
            )
        )


def _needed(entry: Entry, state: MemberState) -> MemberState:
    """Leave out what a head that is done needs no more: Adam's moments."""
    return replace(state, first_moments=(), second_moments=()) if entry.is_done else state
