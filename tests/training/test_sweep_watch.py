"""What the leader of a sweep makes of what it hears from its workers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch.distributed import Store  # type: ignore[attr-defined]

import featcache
from featcache.core.reporting import silent
from featcache.core.workers.messages import FAILED, REFUSED, claimed_key, written_error
from featcache.core.workers.worker import tell
from featcache.errors import DeviceError, DiskFullError
from featcache.training.sweeps.devices.watching import SweepWatch
from featcache.training.sweeps.devices.work import broken_key, progress_key
from featcache.training.sweeps.groups import HeadGroup
from tests.training.groups_of_heads import groups_in


def watch_of(store: Store, groups: Sequence[HeadGroup], notes: list[str]) -> SweepWatch:
    return SweepWatch(store, groups, on_progress=silent, on_note=notes.append)


def claim(store: Store, attempt: int, *numbers: int) -> None:
    text = "".join(f"{number}," for number in numbers)
    store.append(claimed_key(attempt), text)  # type: ignore[attr-defined]


@pytest.mark.parametrize("moment", ["before_start", "look", "finish"])
def test_what_a_worker_refuses_ends_the_sweep_at_once(
    store: Store, tmp_path: Path, moment: str
) -> None:
    watch = watch_of(store, groups_in(tmp_path), [])
    watch.before_start()
    store.set(REFUSED, written_error(DiskFullError("no room is left")))

    with pytest.raises(DiskFullError, match="no room is left"):
        getattr(watch, moment)()


def test_what_a_worker_tells_after_the_last_look_is_told(store: Store, tmp_path: Path) -> None:
    notes: list[str] = []
    watch = watch_of(store, groups_in(tmp_path), notes)
    watch.before_start()
    watch.look()
    tell(store, "of its last second")

    watch.finish()

    assert notes == ["of its last second"]


def test_a_group_whose_worker_dies_three_times_ends_the_sweep(store: Store, tmp_path: Path) -> None:
    notes: list[str] = []
    groups = groups_in(tmp_path)
    watch = watch_of(store, groups, notes)
    watch.before_start()
    for attempt in range(2):
        claim(store, attempt, 0, 1)
        groups[1].checkpoint.write_text("an epoch")
        os.utime(groups[1].checkpoint, (attempt, attempt))
        watch.before_start()
    claim(store, 2, 0, 1)
    os.utime(groups[1].checkpoint, (9, 9))

    with pytest.raises(DeviceError) as err:
        watch.before_start()

    [head] = groups[0].entries
    assert str(err.value) == (
        f"Workers ended 3 times while they trained {head.path.name}, before an epoch was saved. 0 "
        f"of 3 heads finished, the others are kept as of the last epoch that was saved. Memory may "
        f"be short for so many. Run the same command with fewer devices."
    )
    assert notes == ["a worker ended; all are started again, and go on"] * 2


def test_workers_that_die_before_their_first_group_end_the_sweep_with_what_they_said(
    store: Store, tmp_path: Path
) -> None:
    watch = watch_of(store, groups_in(tmp_path), [])
    for _ in range(3):
        watch.before_start()
    store.set(FAILED, "no memory")

    with pytest.raises(
        DeviceError, match=r"ended \(no memory\) 3 times before they trained a head"
    ):
        watch.before_start()


def test_progress_is_that_of_all_groups(store: Store, tmp_path: Path) -> None:
    told: list[featcache.SweepProgress] = []
    watch = SweepWatch(store, groups_in(tmp_path), on_progress=told.append, on_note=silent)
    watch.before_start()
    watch.look()
    one = featcache.SweepProgress(1, 0, 2, 4, 20, 40, 1.0, 0.5)
    store.set(progress_key(1), json.dumps(vars(one)))
    store.set(broken_key(2), "{}")  # it is over
    watch = SweepWatch(store, groups_in(tmp_path), on_progress=told.append, on_note=silent)
    watch.before_start()
    watch.look()

    [progress] = told
    assert (progress.n_heads, progress.n_finished) == (3, 0)
    assert (progress.epoch, progress.n_done, progress.n_total) == (2, 60, 120)
    assert progress.best_val_loss == 0.5
