"""The process that leads the workers of a sweep: it deals the groups, and writes the table."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from featcache.config import RunSpec
from featcache.core.device import pick_device
from featcache.core.reporting import Choice, NoteCallback
from featcache.core.workers.launching import launch, make_store
from featcache.errors import InterruptedRunError, counted
from featcache.features.datamodule import FeatureDataModule
from featcache.features.lookup import Found
from featcache.features.residence import pick_residence
from featcache.features.resident import Resident
from featcache.features.rows import n_inputs
from featcache.store import Cache
from featcache.training.recipes import Recipe, Setting
from featcache.training.sweeps.bank_trainer import SweepProgressCallback
from featcache.training.sweeps.devices.watching import SweepWatch
from featcache.training.sweeps.devices.work import GROUPS, SweepWork, written_groups
from featcache.training.sweeps.entry import Entry
from featcache.training.sweeps.grid_run import entries_of, stem_of, train_grid
from featcache.training.sweeps.groups import groups_of, groups_on, n_pending, train_groups_here
from featcache.training.sweeps.table import SweepResult
from featcache.training.training_cache import load_to_train

_OMP = "OMP_NUM_THREADS"


def train_on_devices(
    found: Found,
    settings: Sequence[Setting],
    devices: Sequence[str],
    *,
    recipe: Recipe,
    asked: RunSpec,
    on_progress: SweepProgressCallback,
    on_note: NoteCallback,
) -> SweepResult:
    """Train what is missing of a grid in groups, and write its table.

    One device, or one group, needs no worker: it is trained here.

    Args:
        found: The cache.
        settings: Head and training of each setting.
        devices: "cpu" or "cuda:N", for each worker.
        recipe: Where the values of the settings come from.
        asked: How many heads a setting has, and where they go.
        on_progress: Called about once a second.
        on_note: Told each choice.

    Raises:
        DeviceError: If a device is missing or fails, or workers die again and again.
        FeatcacheError: As `train_grid` raises them.
    """
    cache, window_rows = found.cache, settings[0][1].window_rows
    for device in devices:
        pick_device(device)
    asked_for = counted(len(devices), "device")
    n_devices = min(len(devices), max(1, _n_open_groups(cache, settings, asked)))
    devices = devices[:n_devices]
    with _threads(on_note):
        if n_devices == 1:
            _, resident = load_to_train(
                cache,
                device=devices[0],
                window_rows=window_rows,
                trainer="featcache.training.sweeps.grid_run",
                draws_views=True,
                on_note=on_note,
            )
            training = train_groups_here
        else:
            where = torch.device(devices[0])
            stays = (
                Choice("file", "each worker loads what it trains on") if not window_rows else None
            )
            resident = Resident(where, stays, {}, draws_views=True)
            training = partial(_train_by_workers, devices)
        return train_grid(
            cache,
            resident,
            settings,
            recipe=recipe,
            asked=asked,
            device=Choice(devices[0], f"{n_devices} of {asked_for} asked for"),
            remarks=found.remarks,
            training=training,
            on_progress=on_progress,
            on_note=on_note,
        )


def _n_open_groups(cache: Cache, settings: Sequence[Setting], asked: RunSpec) -> int:
    entries = [entry for of_one in entries_of(cache, settings, asked) for entry in of_one]
    n_classes = len(cache.class_names)
    groups = groups_of(entries, stem_of(entries), n_features=n_inputs(cache), n_classes=n_classes)
    return sum(not group.is_done for group in groups)


@contextlib.contextmanager
def _threads(on_note: NoteCallback) -> Iterator[None]:
    """Set the CPU threads of each process: as many whatever the number of devices.

    They decide the last digits of what a CPU computes.
    """
    before = torch.get_num_threads()
    n, why = (before, _OMP) if os.environ.get(_OMP) else (1, "in each process")
    on_note(f"threads {n}: {why}")
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_by_workers(
    devices: Sequence[str],
    grid: Sequence[Entry],
    batches: FeatureDataModule,
    *,
    stem: Path,
    on_progress: SweepProgressCallback,
    on_note: NoteCallback,
) -> tuple[int, Choice[str]]:
    """Let workers train the groups that are open, and wait for them; as `GridTraining`."""
    groups = [group for group in groups_on(grid, stem, batches) if not group.is_done]
    n_trained = sum(map(n_pending, groups))
    residence = pick_residence(
        batches.cache,
        device=batches.device,
        order=batches.sampler,
        draws_views=True,
        n_processes=len(devices),
    )
    on_note(f"features stay in {residence.told}")
    store, port = make_store()
    store.set(GROUPS, written_groups(groups))
    work = SweepWork(
        cache=str(batches.cache.path.absolute()),
        fingerprint=batches.cache.fingerprint,
        devices=tuple(devices),
        stays_in_file=residence.why if residence.value == "file" else "",
        n_threads=torch.get_num_threads(),
        port=port,
        leader=os.getpid(),
        path=tuple(sys.path),
    )
    named = ", ".join(devices)
    on_note(f"{counted(len(devices), 'worker')} for {counted(len(groups), 'group')}: {named}")
    watch = SweepWatch(store, groups, on_progress=on_progress, on_note=on_note)
    try:
        launch(
            work.command(),
            len(devices),
            store,
            port,
            on_start=watch.before_start,
            on_look=watch.look,
        )
    except KeyboardInterrupt as err:
        raise InterruptedRunError(
            f"Stopped. {watch.kept()} The same command goes on from there."
        ) from err
    watch.finish()
    return n_trained, residence
