"""The run folder of a head that a solver fits."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from featcache.config import HeadSpec, SolverSpec, TrainSpec
from featcache.core.arithmetic import head_arithmetic
from featcache.core.failures import device_failures_named
from featcache.core.reporting import NoteCallback
from featcache.core.side_files import partial_path
from featcache.core.stopping import working
from featcache.errors import InterruptedRunError
from featcache.features.batches import OrderedBatches
from featcache.features.resident import Resident
from featcache.features.rows import load_rows, n_inputs
from featcache.features.split import training_rows, valid_rows
from featcache.heads.answering import answering_module
from featcache.heads.backbone_record import BackboneRecord
from featcache.heads.figures import Figures, SumsOfBatches, measure
from featcache.heads.head_file import load_head, save_head
from featcache.heads.run_files import HeadRun, has_test_rows, head_of, read_run, write_figures
from featcache.heads.run_folder import begin_folder, finish_folder
from featcache.heads.runs import METRICS_FILE, run_path
from featcache.store import Cache, locked, named_failures, replace_file
from featcache.training.folds.cross_validate import cross_validate, folds_of
from featcache.training.folds.cross_validation import CrossValidation
from featcache.training.folds.fold_fit import fit_fold, require_classes_of_folds
from featcache.training.solvers.fit import Fitted, chosen, figures_of, finished, fit_values
from featcache.training.solvers.knn import with_possible_k
from featcache.training.solvers.rows import RowsOfSplit, SolverRows
from featcache.training.solvers.steps import OnStep

LINEAR = HeadSpec(hidden=())
_NOTHING_KEPT = "Nothing was kept; the same command starts again."
_FINISHED_KEPT = "Runs that are finished are kept; the same command makes the others."
_UNTESTED_KEPT = "All runs are kept; the same command tests the best."


@dataclass(frozen=True)
class SolverProgress:
    """How far a solver is.

    Attributes:
        solver: Its name.
        n_done: Steps so far.
        max_steps: The step at which it gives up.
        n_left: Values of C, or classes, that are not solved yet.
    """

    solver: str
    n_done: int
    max_steps: int
    n_left: int


SolverProgressCallback = Callable[[SolverProgress], None]


class SolverJob:
    """Fits heads on a cache that was verified."""

    def __init__(
        self,
        cache: Cache,
        resident: Resident,
        train: TrainSpec,
        *,
        runs_dir: Path,
        on_progress: SolverProgressCallback,
        on_note: NoteCallback,
    ) -> None:
        """Take the cache.

        Args:
            cache: It.
            resident: What is loaded of it; other splits are read from the file.
            train: Which rows validate.
            runs_dir: Folder of all runs.
            on_progress: Called after each step of a solver that has steps.
            on_note: Told what else is in a folder.
        """
        self.cache, self.resident, self.train = cache, resident, train
        self.record = BackboneRecord.of_cache(cache)  # the file may be gone at the end
        self.runs_dir, self.on_progress, self.on_note = runs_dir, on_progress, on_note

    def run(self, spec: SolverSpec) -> HeadRun:
        """Fit a head, with the best of all its values, or find it fitted."""
        path = self._path(spec)
        with self._careful(path, _NOTHING_KEPT), locked(path, remove=True):
            if path.exists():  # another process finished it meanwhile, or a sweep left it untested
                return self._tested(read_run(path))
            started = time.perf_counter()
            train, val = self._rows()
            fits = self._fits(spec, train, val)
            [best] = self._finished([chosen(fits)], train, val)
            seconds = time.perf_counter() - started
            self._make(path, best, seconds, test=self._test(best), tried=fits)
        return replace(read_run(path), outcome="trained")

    def possible(self, spec: SolverSpec) -> SolverSpec:
        """Leave out what the usual values ask for above the number of training rows.

        Raises:
            UsageError: If a value that was asked for is above it.
        """
        return with_possible_k(spec, len(self._rows()[0]))

    def run_all(self, specs: Sequence[SolverSpec]) -> tuple[list[HeadRun], int]:
        """Fit a head for each of several values, side by side, and test none.

        Args:
            specs: Of one solver and treatment, each with one value.

        Returns:
            The runs, in the order of the specs, and how many are new.
        """
        paths = {spec: self._path(spec) for spec in specs}
        missing = [spec for spec in specs if not paths[spec].exists()]
        if missing:
            with self._careful(paths[missing[0]], _FINISHED_KEPT):
                self._make_all({spec: paths[spec] for spec in missing})
        runs = [read_run(paths[spec]) for spec in specs]
        return runs, len(missing)

    def _make_all(self, paths: Mapping[SolverSpec, Path]) -> None:
        started = time.perf_counter()
        train, val = self._rows()
        several = _joined(list(paths))
        ends = self._finished(self._fits(several, train, val), train, val)
        seconds = (time.perf_counter() - started) / len(ends)
        of_value = {(end.found.get("C"), end.found.get("k")): end for end in ends}
        for spec, path in paths.items():
            end = of_value[(spec.C or (None,))[0], (spec.k or (None,))[0]]
            with locked(path, remove=True):
                if not path.exists():
                    self._make(path, replace(end, spec=spec), seconds, test=None)

    def tested(self, run: HeadRun) -> HeadRun:
        """Test a run that was left untested, and note the figures in its folder."""
        with self._careful(run.path, _UNTESTED_KEPT), locked(run.path, remove=True):
            return self._tested(read_run(run.path))

    def require_folds(self, spec: SolverSpec, n_folds: int) -> None:
        """Refuse folds that would fail, before anything is fitted.

        Raises:
            UsageError: If there are too few rows, or too few of a class.
        """
        rows, _, folds = folds_of(self.cache, self.train, self.resident, n_folds)
        names = self.cache.class_names
        require_classes_of_folds(rows, folds, solver=spec.solver, class_names=names)

    def cross_validated(self, spec: SolverSpec, n_folds: int, file: Path) -> CrossValidation:
        """Fit and test a head for each fold, and keep the figures in a file."""
        fit = partial(
            fit_fold,
            spec=spec,
            n_features=n_inputs(self.cache),
            class_names=self.cache.class_names,
            on_step=self._teller(spec),
        )
        return cross_validate(
            self.cache,
            self.train,
            self.resident,
            fit,
            n_folds=n_folds,
            file=file,
            on_note=self.on_note,
        )

    def _path(self, spec: SolverSpec) -> Path:
        return run_path(self.runs_dir, self.cache, LINEAR, self.train, spec)

    @contextlib.contextmanager
    def _careful(self, path: Path, kept: str) -> Iterator[None]:
        """Name what fails inside, and what is kept of it."""
        device = str(self.resident.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        failures = device_failures_named(device, "Fitting", kept=lambda: kept)
        try:
            named = named_failures(path, kept=lambda: kept)
            with head_arithmetic(device), failures, named, working(), torch.no_grad():
                yield
        except KeyboardInterrupt as err:
            raise InterruptedRunError(f"Stopped. {kept}") from err

    def _rows(self) -> tuple[SolverRows, SolverRows | None]:
        """Give the rows that train, and those that validate, if there are any."""
        train_split, train, val_split, val = training_rows(
            self.cache,
            val_fraction=self.train.val_fraction,
            split_seed=self.train.split_seed,
            may_lack_validation=True,
        )
        rows = self._rows_of(train_split, train)
        return rows, self._rows_of(val_split, val) if len(val) else None

    def _rows_of(self, split: str, index: Tensor) -> SolverRows:
        device = self.resident.device
        rows = self.resident.rows.get(split)
        if rows is None:
            rows = load_rows(self.cache, split, device=device, residence="file")
        part = RowsOfSplit(rows, index.sort().values, self.cache[split].ids)
        return SolverRows((part,), n_inputs(self.cache))

    def _fits(self, spec: SolverSpec, train: SolverRows, val: SolverRows | None) -> list[Fitted]:
        names = self.cache.class_names
        return fit_values(train, val, spec, class_names=names, on_step=self._teller(spec))

    def _finished(
        self, fits: Sequence[Fitted], train: SolverRows, val: SolverRows | None
    ) -> list[Fitted]:
        on_step, names = self._teller(fits[0].spec), self.cache.class_names
        return finished(fits, train, val, class_names=names, on_step=on_step)

    def _teller(self, spec: SolverSpec) -> OnStep:
        def tell(n_done: int, max_steps: int, n_left: int) -> None:
            self.on_progress(SolverProgress(spec.solver, n_done, max_steps, n_left))

        return tell

    def _test(self, fitted: Fitted) -> Figures | None:
        if not has_test_rows(self.cache):
            return None
        rows = self._rows_of("test", valid_rows(self.cache["test"])).treated(fitted.treatment)
        return figures_of([fitted.fit], rows)[0]

    def _tested(self, run: HeadRun) -> HeadRun:
        if run.test_acc is not None or not has_test_rows(self.cache):
            return run
        head, sums = load_head(run.path), SumsOfBatches()
        module = answering_module(head, self.cache, device=self.resident.device)
        [part] = self._rows_of("test", valid_rows(self.cache["test"])).parts
        measure(OrderedBatches(part.rows, part.index), (module, sums))
        run = _with_test(run, sums.figures, is_calibrated=head.is_calibrated)
        write_figures(run.path, run)
        return run

    def _make(
        self,
        path: Path,
        fitted: Fitted,
        seconds: float,
        *,
        test: Figures | None,
        tried: Sequence[Fitted] = (),
    ) -> None:
        """Write the folder of a run, like any other."""
        folder = partial_path(path)
        begin_folder(folder, self.on_note)
        train, val = self._rows()
        head = head_of(
            self.cache,
            LINEAR,
            self.train,
            fitted.state(),
            rows={"train": ("train", len(train)), "val": self._val_rows(val)},
            n_epochs=0,
            device=str(self.resident.device),
            solver=fitted.spec,
            found=fitted.found,
            record=self.record,
        )
        save_head(folder, head)
        run = HeadRun(
            path=path,
            outcome="trained",
            seed=0,
            n_epochs=0,
            kept_epoch=0,
            best_epoch=0,
            stopped_early=False,
            val_loss=fitted.val.loss if fitted.val else None,
            val_acc=fitted.val.acc if fitted.val else None,
            test_loss=None,
            test_acc=None,
            seconds=seconds,
            history=(),
            solver=fitted.spec.solver,
            found=fitted.found,
        )
        if test is not None:
            run = _with_test(run, test, is_calibrated=head.is_calibrated)
        write_figures(folder, run)
        write_tried(folder / METRICS_FILE, tried)
        finish_folder(folder, path, self.on_note)

    def _val_rows(self, val: SolverRows | None) -> tuple[str, int]:
        return ("val" if "val" in self.cache.splits else "train", len(val) if val else 0)


def _with_test(run: HeadRun, test: Figures, *, is_calibrated: bool) -> HeadRun:
    return replace(run, test_acc=test.acc, test_loss=test.loss if is_calibrated else None)


def _joined(specs: Sequence[SolverSpec]) -> SolverSpec:
    """Give one spec with the values of all."""
    values_of_c = tuple(C for spec in specs for C in spec.C or ())
    values_of_k = tuple(k for spec in specs for k in spec.k or ())
    return replace(specs[0], C=values_of_c, k=values_of_k)


def write_tried(path: Path, fits: Sequence[Fitted]) -> None:
    """Write a row for each value that was tried: what was found with it, and its figures."""
    text = io.StringIO(newline="")
    rows = [
        {**fitted.fit.found, "val_loss": fitted.val.loss, "val_acc": fitted.val.acc}
        for fitted in fits
        if fitted.val is not None
    ]
    if not rows:
        return
    writer = csv.DictWriter(text, [*rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue().encode())
