"""The heads of a grid: those that are missing trained, the best setting tested, the table kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from featcache.config import RunSpec, TrainSpec
from featcache.core.arithmetic import head_arithmetic
from featcache.core.failures import device_failures_named
from featcache.core.identity import fingerprint
from featcache.core.plain_torch import plain_torch
from featcache.core.reporting import Choice, NoteCallback
from featcache.core.side_files import partial_path
from featcache.core.stopping import working
from featcache.errors import NonFiniteError
from featcache.evaluation.metrics import Spread
from featcache.features.datamodule import FeatureDataModule
from featcache.features.resident import Resident
from featcache.features.rows import n_inputs
from featcache.heads.mlp import require_room
from featcache.heads.run_files import HeadRun, has_test_rows, read_run, tested
from featcache.heads.runs import run_path
from featcache.store import (
    Cache,
    is_there,
    locked,
    named_failures,
    remove_leftovers,
)
from featcache.training.recipes import Recipe, Setting
from featcache.training.remarks import remarks_on, reused
from featcache.training.sweeps.bank_trainer import SweepProgressCallback
from featcache.training.sweeps.entry import Entry
from featcache.training.sweeps.head_bank import Member
from featcache.training.sweeps.passes import GridTraining, train_in_passes
from featcache.training.sweeps.table import SweepResult, SweepSetting, write_tables


@plain_torch()
def train_grid(
    cache: Cache,
    resident: Resident,
    settings: Sequence[Setting],
    *,
    recipe: Recipe,
    asked: RunSpec,
    device: Choice[str],
    remarks: tuple[str, ...],
    training: GridTraining = train_in_passes,
    on_progress: SweepProgressCallback,
    on_note: NoteCallback,
) -> SweepResult:
    """Train what is missing of a grid on a cache that was verified, and write its table.

    Args:
        cache: The cache.
        resident: What is loaded of it.
        settings: Head and training of each setting; rows, batches and seed are the same in all.
        recipe: Where their values come from.
        asked: How many heads a setting has, and where they go.
        device: "cpu" or "cuda:N", and why.
        remarks: What is to be said of the cache; it is told already.
        training: Trains the heads that are missing.
        on_progress: Called after every few steps.
        on_note: Told each choice.

    Raises:
        NonFiniteError: If no setting has all its heads.
    """
    base = settings[0][1]
    choices = {"device": device.recorded, "recipe": recipe.recorded}
    grid = entries_of(cache, settings, asked)
    entries = [entry for of_setting in grid for entry in of_setting]
    stem = stem_of(entries)
    pending = [entry for entry in entries if not entry.path.exists()]
    for told in reused([read_run(e.path) for e in entries if e not in pending]):
        on_note(told)
    batches = batches_of(cache, base, resident, on_note)
    _require_room(pending, cache, device.value)
    with (
        locked(stem, remove=True),
        named_failures(stem, kept=lambda: saved_of(stem)),
        head_arithmetic(device.value),
        device_failures_named(device.value, "The sweep", kept=lambda: saved_of(stem)),
    ):
        started = time.perf_counter()
        with working():
            remove_leftovers(stem.parent, "sweep-*")  # of sweeps that nobody repeats
            n_trained = 0
            if pending:
                n_trained, residence = training(
                    entries, batches, stem=stem, on_progress=on_progress, on_note=on_note
                )
                choices["features"] = residence.recorded
            for checkpoint in checkpoints_of(stem):
                checkpoint.unlink(missing_ok=True)
        seconds = time.perf_counter() - started
        rows = sorted((_setting(entries) for entries in grid), key=_rank)
        chosen_runs = _test(rows[0], batches, resident.device)
        of_runs = remarks_on(chosen_runs, cache, base, recipe=recipe)
        for remark in of_runs:
            on_note(remark)
        result = SweepResult(
            settings=rows,
            test_acc=spread([r.test_acc for r in chosen_runs]),
            test_loss=spread([r.test_loss for r in chosen_runs]),
            n_trained=n_trained,
            seconds=seconds,
            cache=cache.path,
            json=stem.with_name(stem.name + ".json"),
            markdown=stem.with_name(stem.name + ".md"),
            choices=choices,
            remarks=(*remarks, *of_runs),
        )
        write_tables(result)
    if rows[0].problem:
        raise NonFiniteError(
            f"No setting of the grid has all its heads: {rows[0].problem}. The table is in "
            f"{result.markdown}. Use a lower --lr if losses became infinite or no number."
        )
    return result


def entries_of(cache: Cache, settings: Sequence[Setting], asked: RunSpec) -> list[list[Entry]]:
    """Name the heads of each setting of a grid."""
    order_seed = settings[0][1].seed
    return [_entries(cache, one, asked, order_seed=order_seed) for one in settings]


def _entries(cache: Cache, setting: Setting, asked: RunSpec, *, order_seed: int) -> list[Entry]:
    """Name the heads of a setting, one for each seed, all with one order of batches."""
    head, base = setting
    entries = []
    for seed in range(base.seed, base.seed + asked.seeds):
        train = replace(base, seed=seed, order_seed=order_seed)
        path = run_path(Path(asked.runs_dir), cache, head, train)
        entries.append(Entry(path, Member(path.name, head, train.lr, train.seed), train))
    return entries


def batches_of(
    cache: Cache, train: TrainSpec, resident: Resident, on_note: NoteCallback
) -> FeatureDataModule:
    """Make the batches that all heads of a grid see, of what is loaded."""
    batches = FeatureDataModule(
        cache,
        batch_size=train.batch_size,
        val_fraction=train.val_fraction,
        split_seed=train.split_seed,
        seed=train.seed_of_order,
        window_rows=train.window_rows,
        on_note=on_note,
    )
    batches.hold(resident)
    return batches


def _require_room(entries: Sequence[Entry], cache: Cache, device: str) -> None:
    n_features, n_classes = n_inputs(cache), len(cache.class_names)
    for spec in {entry.member.spec for entry in entries}:
        require_room(spec, n_features=n_features, n_classes=n_classes, device=device)


def stem_of(entries: Sequence[Entry]) -> Path:
    """Name the sweep's own files by the runs that it is of."""
    paths = [entry.path for entry in entries]
    digest = fingerprint({"runs": sorted(path.name for path in paths)})
    return paths[0].with_name(f"sweep-{digest[:8]}")


def checkpoints_of(stem: Path) -> list[Path]:
    """List the files that keep how far the heads of a sweep are, of one process or of groups."""
    return [partial_path(stem), *stem.parent.glob(f"{stem.name}-*.partial")]


def saved_of(stem: Path) -> str:
    """Say what is there of a sweep that a failure ended."""
    if any(map(is_there, checkpoints_of(stem))):
        return "The heads of the last epoch that was saved are kept."
    return "Heads that are finished are kept; of others no epoch was saved."


def _setting(entries: Sequence[Entry]) -> SweepSetting:
    finished = [read_run(e.path) for e in entries if e.path.exists()]
    states = [entry.state for entry in entries if entry.state.problem]
    problem = states[0].problem if states else ""
    n_epochs = sum(len(state.history) for state in states)
    n_epochs += sum(run.n_epochs for run in finished)
    return SweepSetting(
        head=entries[0].member.spec,
        lr=entries[0].member.lr,
        val_loss=None
        if problem
        else Spread.of([run.val_loss for run in finished if run.val_loss is not None]),
        val_acc=None
        if problem
        else Spread.of([run.val_acc for run in finished if run.val_acc is not None]),
        n_epochs=n_epochs / len(entries),
        problem=problem,
        runs=tuple(run.path for run in finished),
    )


def _rank(setting: SweepSetting) -> tuple[bool, float]:
    return setting.val_loss is None, setting.val_loss.mean if setting.val_loss else 0.0


def _test(setting: SweepSetting, batches: FeatureDataModule, device: torch.device) -> list[HeadRun]:
    """Read the heads of the chosen setting, tested where there is a test split."""
    if setting.problem:
        return []
    if not has_test_rows(batches.cache):
        return [read_run(path) for path in setting.runs]
    return [
        run if run.test_acc is not None else tested(run, batches, device=device)
        for run in map(read_run, setting.runs)
    ]


def spread(values: Sequence[float | None]) -> Spread | None:
    """Sum up the figures that there are; None if there are none."""
    there = [value for value in values if value is not None]
    return Spread.of(there) if there else None
