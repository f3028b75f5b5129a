"""The groups that a worker takes and trains."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch.distributed import Store  # type: ignore[attr-defined]  # named in no __all__

from featcache.core.arithmetic import head_arithmetic
from featcache.core.failures import device_failures_named
from featcache.core.plain_torch import plain_torch
from featcache.core.reporting import Choice, silent
from featcache.core.stopping import working
from featcache.core.workers.messages import REFUSED, claimed_key, next_key
from featcache.core.workers.worker import tell
from featcache.errors import MismatchError
from featcache.features.datamodule import FeatureDataModule
from featcache.features.resident import load_sound
from featcache.store import Cache, named_failures, open_cache
from featcache.training.sweeps.bank_trainer import SweepProgress
from featcache.training.sweeps.devices.work import (
    GROUPS,
    SweepWork,
    broken_key,
    progress_key,
    read_groups,
    written_states,
)
from featcache.training.sweeps.entry import Entry
from featcache.training.sweeps.grid_run import batches_of
from featcache.training.sweeps.groups import HeadGroup, train_group
from featcache.training.sweeps.passes import loaded

_TELLS_EVERY_S = 0.5


def train_taken(
    work: SweepWork,
    store: Store,
    *,
    rank: int,
    attempt: int,
    on_loaded: Callable[[], None] = lambda: None,
) -> None:
    """Take groups and train them, until none is left or a worker has refused.

    Args:
        work: What the leader told.
        store: What workers share.
        rank: Of this worker.
        attempt: How often the workers were started again.
        on_loaded: Called before the first head is trained.

    Raises:
        MismatchError: If the cache is another one than the leader's.
        FeatcacheError: As `sweep` raises them.
    """
    torch.set_num_threads(work.n_threads)  # they decide the last digits of what a CPU computes
    device = work.devices[rank]
    groups = read_groups(store.get(GROUPS))
    cache = open_cache(Path(work.cache))
    if cache.fingerprint != work.fingerprint:
        raise MismatchError(
            f"{cache.path} is another cache than when the sweep began: somebody replaced it. All "
            f"finished heads are kept. Run the same command again."
        )
    kept = "Heads that are finished are kept, the others as of the last epoch that was saved."
    with (
        plain_torch(),
        head_arithmetic(device),
        device_failures_named(device, "The sweep", kept=lambda: kept),
        named_failures(groups[0].entries[0].path, kept=lambda: kept),
    ):
        batches = _loaded_batches(work, cache, device, groups[0].entries[0])
        on_loaded()
        with working():
            for group in _taken(groups, store, attempt):
                told = partial(_tell_progress, store, group.number, [0.0])
                train_group(group, batches, on_progress=told, on_note=partial(tell, store))
                store.set(broken_key(group.number), written_states(group.entries))


def _loaded_batches(work: SweepWork, cache: Cache, device: str, first: Entry) -> FeatureDataModule:
    """Verify the cache, and load what is trained on."""
    resident = load_sound(
        cache,
        device=device,
        window_rows=first.train.window_rows,
        draws_views=True,
        stays=Choice("file", work.stays_in_file) if work.stays_in_file else None,
    )
    batches = batches_of(cache, first.train, resident, silent)
    loaded(batches, silent)  # the leader has told it
    return batches


def _taken(groups: list[HeadGroup], store: Store, attempt: int) -> Iterator[HeadGroup]:
    """Count through the groups together with the other workers; no two get the same."""
    while not store.check([REFUSED]):
        number = store.add(next_key(attempt), 1) - 1
        if number >= len(groups):
            return
        if not groups[number].is_done:
            store.append(claimed_key(attempt), f"{groups[number].number},")  # type: ignore[attr-defined]
            yield groups[number]


def _tell_progress(
    store: Store, number: int, told_at_s: list[float], progress: SweepProgress
) -> None:
    if time.monotonic() - told_at_s[0] > _TELLS_EVERY_S:
        told_at_s[0] = time.monotonic()
        store.set(progress_key(number), json.dumps(asdict(progress)))
