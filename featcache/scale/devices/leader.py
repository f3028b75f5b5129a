"""The process that leads the workers: it holds the lock, and makes the file ready for them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

import torch

from featcache.core.device import pick_device, pick_n_workers
from featcache.core.reporting import Choice, NoteCallback
from featcache.core.usable_cores import usable_cores
from featcache.core.workers.launching import launch, make_store
from featcache.errors import counted
from featcache.extraction.fill import Filled, Target, fill
from featcache.extraction.plan import Plan
from featcache.extraction.progress import ProgressCallback
from featcache.extraction.run import Made, make_caches
from featcache.scale.devices.watching import Watch
from featcache.scale.devices.work import Work
from featcache.store import partial_path, read_state
from featcache.store.sharing import hand_over

_MOST_THREADS = 4096


def make_on_devices(
    devices: Sequence[str],
    plans: Sequence[Plan],
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> list[Made]:
    """Compute what is missing of a cache, on several devices; the caller holds its lock.

    Before its first row, the file is made ready here, as a single process would make it: batch
    size and engine, adapted statistics, reference rows.

    Args:
        devices: "cpu" or "cuda:N", for each worker.
        plans: One, for the first of them, or none.
        on_progress: Called about once a second.
        on_note: Told each choice.

    Raises:
        FeatcacheError: As `make_caches` raises them.
    """
    if not plans:
        return []
    for device in devices:
        pick_device(device)
    filling = fill
    if len(devices) > 1:
        filling = partial(_fill_by_workers, devices, on_note=on_note)
    with _threads_for(plans[0], devices, on_note):
        return make_caches(plans, on_progress=on_progress, on_note=on_note, filling=filling)


@contextlib.contextmanager
def _threads_for(plan: Plan, devices: Sequence[str], on_note: NoteCallback) -> Iterator[None]:
    """Set the CPU threads of torch: they decide the last digits of what a CPU computes."""
    before = torch.get_num_threads()
    chosen = _pick_threads(plan, devices)
    if chosen.value != before:
        on_note(f"threads {chosen.told}")
    torch.set_num_threads(chosen.value)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pick_threads(plan: Plan, devices: Sequence[str]) -> Choice[int]:
    """Choose the threads of a process: those that a partial file was begun with, if it says so."""
    partial_file = partial_path(plan.path)
    if partial_file.exists():
        stored = read_state(partial_file).manifest.numerics.get("threads")
        if isinstance(stored, int) and 1 <= stored <= _MOST_THREADS:
            return Choice(stored, "with which the file was begun")
    here = torch.get_num_threads()
    if len(devices) == 1 or devices[0] != "cpu":
        return Choice(here, "torch's own")
    if os.environ.get("OMP_NUM_THREADS"):
        return Choice(here, "OMP_NUM_THREADS")
    n_cores = usable_cores()
    each = max(1, n_cores.value // len(devices))
    return Choice(each, f"for each of {len(devices)} processes on {n_cores.why}")


def _fill_by_workers(
    devices: Sequence[str], targets: Sequence[Target], *, on_note: NoteCallback
) -> list[Filled]:
    """Let workers compute what is pending, and wait for them."""
    [target] = targets
    job, writer = target.job, target.writer
    plan, pending = job.plan, writer.pending()
    devices = devices[: len(pending)]
    if len(devices) < 2:
        return fill(targets)  # a worker would only be slower
    if job.runner is not None and plan.device != "cpu":
        job.runner.module.cpu()  # the first worker needs the memory
        torch.cuda.empty_cache()
    hand_over(writer, plan.rows())
    store, port = make_store()
    work = Work(
        spec=asdict(plan.spec),
        cache=str(plan.path.absolute()),
        dataset_sha256=plan.identity["dataset_sha256"],
        devices=tuple(devices),
        n_workers=_decoders_of_each(plan, devices),
        n_threads=torch.get_num_threads(),
        port=port,
        leader=os.getpid(),
        path=tuple(sys.path),
    )
    on_note(f"{counted(len(devices), 'worker')}: {', '.join(devices)}")
    watch = Watch(job, writer, store, n_workers=len(devices), on_note=on_note)
    try:
        launch(
            work.command(),
            len(devices),
            store,
            port,
            on_start=watch.before_start,
            on_look=watch.look,
        )
    finally:
        writer.refresh()
    seconds = watch.seconds()
    watch.finish()
    n_images = sum((b.stop - b.start) * plan.views.n_of(b.split) for b in pending)
    return [Filled(seconds, watch.phases(), n_images)]


def _decoders_of_each(plan: Plan, devices: Sequence[str]) -> int:
    """Choose the decoding processes of a worker: those that are asked for, else its share."""
    chosen = pick_n_workers(plan.spec.n_workers, device=plan.device)
    if plan.spec.n_workers is not None:
        return chosen.value
    return max(1, usable_cores().value // len(devices), chosen.value // len(devices))
