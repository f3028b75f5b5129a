"""One run: train a head, keep it when the run breaks off, finish its folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Timer
from torch import nn

from featcache.config import HeadSpec, SolverSpec, TrainSpec
from featcache.core.arithmetic import head_arithmetic
from featcache.core.backbone_names import PIXELS
from featcache.core.failures import device_failures_named
from featcache.core.process_wide import nvml_left_alone
from featcache.core.random_state import seeded
from featcache.core.reporting import NoteCallback
from featcache.core.side_files import partial_path
from featcache.core.stopping import working
from featcache.core.tensor_files import read_checkpoint
from featcache.errors import InterruptedRunError, NonFiniteError
from featcache.features.batches import STEPS_PER_BATCH, STEPS_PER_BATCH_PIXELS
from featcache.features.datamodule import FeatureDataModule
from featcache.features.order import EpochOrder
from featcache.features.resident import Resident
from featcache.features.rows import n_inputs
from featcache.heads.backbone_record import BackboneRecord
from featcache.heads.figures import Figures, MeansOfBatches, figures_on_test
from featcache.heads.head_file import save_head
from featcache.heads.mlp import require_room
from featcache.heads.run_files import (
    HeadRun,
    has_test_rows,
    head_of,
    read_run,
    run_of,
    tested,
    write_figures,
)
from featcache.heads.run_folder import begin_folder, finish_folder
from featcache.heads.runs import run_path
from featcache.heads.trained_head import TrainedHead
from featcache.store import Cache, is_there, locked, named_failures
from featcache.training.loss import TrainingLoss
from featcache.training.module import HeadModule
from featcache.training.solvers.rows import RowsOfSplit, SolverRows, fitted_treatment
from featcache.training.trainer import (
    LAST,
    KeepBest,
    TrainProgressCallback,
    interrupts_raised,
    make_trainer,
    quiet_lightning,
)

_Kind = TypeVar("_Kind", bound=Callback)


class HeadJob:
    """The runs of one call, which share the resident features of a cache that was verified."""

    def __init__(
        self,
        cache: Cache,
        head: HeadSpec,
        resident: Resident,
        *,
        solver: SolverSpec | None = None,
        runs_dir: Path,
        resume: bool,
        on_progress: TrainProgressCallback,
        on_note: NoteCallback,
    ) -> None:
        self.cache = cache
        self.record = BackboneRecord.of_cache(cache)  # the file may be gone at the end
        self.head = head
        self.solver = solver or SolverSpec()
        self.resident = resident
        self.device = str(resident.device)
        self.runs_dir = runs_dir
        self.resume = resume
        self.on_progress = on_progress
        self.on_note = on_note
        self._batches: FeatureDataModule | None = None

    @property
    def choices(self) -> dict[str, str]:
        """What was chosen automatically, with the reason."""
        residence = self._batches.residence if self._batches else None
        return {"features": residence.recorded} if residence else {}

    def run(self, train: TrainSpec) -> HeadRun:
        """Train one head, or find it trained."""
        path = run_path(self.runs_dir, self.cache, self.head, train, self.solver)
        failures = device_failures_named(self.device, "Training", kept=lambda: _saved_of(path))
        with head_arithmetic(self.device), failures:
            if path.exists():
                return self._found(path, train)
            require_room(
                self.head,
                n_features=n_inputs(self.cache),
                n_classes=len(self.cache.class_names),
                device=self.device,
            )
            batches = self._features(train)
            with named_failures(path, kept=lambda: _saved_of(path)), working():
                return self._run(path, train, batches)

    def _run(self, path: Path, train: TrainSpec, batches: FeatureDataModule) -> HeadRun:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, remove=True):
            if not path.exists():
                return self._made(path, train, batches)
        return self._found(path, train)  # another process finished it meanwhile

    def _made(self, path: Path, train: TrainSpec, batches: FeatureDataModule) -> HeadRun:
        """Train, or go on, in the run's partial folder, and finish that."""
        folder = partial_path(path)
        resumed = self._resumed(folder)
        if resumed is None:
            begin_folder(folder, self.on_note)
        # The loggers are given the earlier epochs again.
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        result = self._train(folder, train, batches, resumed)
        write_figures(folder, result)
        finish_folder(folder, path, self.on_note)
        return replace(read_run(path), outcome="resumed" if resumed else "trained")

    def _found(self, path: Path, train: TrainSpec) -> HeadRun:
        run = read_run(path)
        if run.test_acc is None and has_test_rows(self.cache):  # a sweep left it untested
            run = tested(run, self._features(train), device=torch.device(self.device))
        return run

    def _features(self, train: TrainSpec) -> FeatureDataModule:
        """Take the features, once; the order is the seed's."""
        if self._batches is None:
            is_pixels = self.cache.identity.backbone == PIXELS
            self._batches = FeatureDataModule(
                self.cache,
                batch_size=train.batch_size,
                val_fraction=train.val_fraction,
                split_seed=train.split_seed,
                window_rows=train.window_rows,
                steps_per_batch=STEPS_PER_BATCH_PIXELS if is_pixels else STEPS_PER_BATCH,
                on_note=self.on_note,
            )
            self._batches.hold(self.resident)
            residence = self._batches.choose_residence(torch.device(self.device))
            self.on_note(f"features stay in {residence.told}")
        self._batches.sampler = EpochOrder(
            self._batches.train_rows, seed=train.seed_of_order, window_rows=train.window_rows
        )
        return self._batches

    def _resumed(self, folder: Path) -> Path | None:
        """Find the checkpoint to go on from; None starts at the first epoch."""
        checkpoint = folder / LAST
        if not self.resume or not checkpoint.exists():
            return None
        n_epochs = _read_checkpoint(checkpoint)["epoch"] + 1
        self.on_note(f"going on after epoch {n_epochs}, at which this run was stopped")
        return checkpoint

    def _train(
        self, folder: Path, train: TrainSpec, batches: FeatureDataModule, resumed: Path | None
    ) -> HeadRun:
        n_classes = len(self.cache.class_names)
        labels = batches.train_labels.to(self.device)
        module = HeadModule(
            n_features=n_inputs(self.cache),
            n_classes=n_classes,
            head=self.head,
            lr=train.lr,
            seed=train.seed,
            loss=TrainingLoss.of(train, labels, n_classes=n_classes),
            treatment=self._treatment(batches),
        )
        # nn.Dropout draws from the default generators; without it runs may go side by side.
        draws = seeded(train.seed, device=self.device) if self.head.dropout else nullcontext()
        with quiet_lightning(), draws:
            trainer = make_trainer(
                folder,
                train,
                device=self.device,
                has_dropout=bool(self.head.dropout),
                on_progress=self.on_progress,
            )
            try:
                with device_failures_named(
                    self.device, "Training", kept=lambda: self._keep(folder, train, batches)
                ):
                    with interrupts_raised(), nvml_left_alone():
                        trainer.fit(module, batches, ckpt_path=resumed, weights_only=True)
                    self._save(folder, train, batches, trainer, module)
                    test = self._test(module, batches)
            except KeyboardInterrupt as err:
                raise InterruptedRunError(
                    f"Stopped. {self._keep(folder, train, batches)} The same command goes on "
                    f"from there."
                ) from err
            except NonFiniteError as err:
                raise NonFiniteError(
                    f"{err} {self._keep(folder, train, batches)} Use a lower --lr (it is "
                    f"{train.lr:g})."
                ) from err
        seconds = _callback(trainer, Timer).time_elapsed()
        run = run_of(folder, train, module.history, seconds=seconds)
        return replace(run, test_loss=test.loss, test_acc=test.acc) if test else run

    def _treatment(self, batches: FeatureDataModule) -> nn.Sequential:
        """Build what is done to features, by the statistics of the training rows."""
        index = batches.train_rows.sort().values
        split = RowsOfSplit(batches.rows_of(batches.train_split), index)
        rows = SolverRows((split,), n_inputs(self.cache))
        return fitted_treatment(rows, self.solver.treatment)

    def _save(
        self,
        folder: Path,
        train: TrainSpec,
        batches: FeatureDataModule,
        trainer: pl.Trainer,
        module: HeadModule,
    ) -> None:
        """Save the head with the weights that are asked for, those of the last or best epoch."""
        n_epochs = len(module.history)
        if train.select == "best":
            best = _callback(trainer, KeepBest)
            assert best.state is not None, "an epoch was validated"
            module.head.load_state_dict(best.state)
            n_epochs = best.epoch
        state = module.head.state_dict()
        save_head(folder, self._head(train, batches, state, n_epochs=n_epochs))

    def _test(self, module: HeadModule, batches: FeatureDataModule) -> Figures | None:
        if not has_test_rows(self.cache):
            return None
        device = torch.device(self.device)
        return figures_on_test(module.head, batches, MeansOfBatches(), device=device)

    def _head(
        self,
        train: TrainSpec,
        batches: FeatureDataModule,
        state: Mapping[str, torch.Tensor],
        *,
        n_epochs: int,
        is_finished: bool = True,
    ) -> TrainedHead:
        return head_of(
            self.cache,
            self.head,
            train,
            state,
            record=self.record,
            rows=batches.n_rows,
            n_epochs=n_epochs,
            device=self.device,
            is_finished=is_finished,
            solver=self.solver,
        )

    def _keep(self, folder: Path, train: TrainSpec, batches: FeatureDataModule) -> str:
        """Save the head of the last whole epoch of a run that broke off, and say so."""
        if not (folder / LAST).exists():
            return "No epoch was finished, so there is no head yet."
        checkpoint = _read_checkpoint(folder / LAST)
        state = {n.removeprefix("head."): t for n, t in checkpoint["state_dict"].items()}
        n_epochs = checkpoint["epoch"] + 1
        save_head(folder, self._head(train, batches, state, n_epochs=n_epochs, is_finished=False))
        return f"The head of epoch {n_epochs} of {train.max_epochs} is kept in {folder}."


def _saved_of(path: Path) -> str:
    """Say what is there of a run that a failure ended."""
    if is_there(path):
        return "The trained head is kept."
    folder = partial_path(path)
    if is_there(folder / LAST):
        return f"The last epoch that was saved is kept in {folder}."
    return "No epoch was saved." if is_there(folder) else "Nothing was started."


def _callback(trainer: pl.Trainer, kind: type[_Kind]) -> _Kind:
    return next(c for c in trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]


def _read_checkpoint(path: Path) -> dict[str, Any]:
    way_out = f"Remove the folder {path.parent} to start again."
    return read_checkpoint(path, ("epoch", "state_dict"), way_out=way_out)
