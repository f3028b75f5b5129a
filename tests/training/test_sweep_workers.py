"""A worker of a sweep: which groups it takes, and where it has the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.distributed import Store  # type: ignore[attr-defined]

import featcache
from featcache.core.reporting import silent
from featcache.core.workers.messages import REFUSED, claimed_key, written_error
from featcache.errors import MismatchError
from featcache.training.sweeps.devices.taking import train_taken
from featcache.training.sweeps.devices.watching import SweepWatch
from featcache.training.sweeps.devices.work import (
    GROUPS,
    SweepWork,
    broken_key,
    progress_key,
    read_states,
    written_groups,
)
from featcache.training.sweeps.groups import HeadGroup
from tests.feature_caches import IDENTITY, MakeCache, Rows, learnable_rows
from tests.training.groups_of_heads import groups_in


def work_on(cache: featcache.Cache, **fields: Any) -> SweepWork:
    usual = SweepWork(
        cache=str(cache.path),
        fingerprint=cache.fingerprint,
        devices=("cpu", "cpu"),
        stays_in_file="",
        n_threads=1,
        port=0,
        leader=0,
        path=(),
    )
    return replace(usual, **fields)


def head_in(groups: Sequence[HeadGroup]) -> list[bytes]:
    """The bytes of the head of one group of one head."""
    [group] = groups
    [entry] = group.entries
    return [(entry.path / name).read_bytes() for name in ("head.safetensors", "metrics.csv")]


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_workers_take_each_group_once_and_say_what_broke_off(
    make_cache: MakeCache, store: Store, tmp_path: Path
) -> None:
    rows = learnable_rows(200, seed=1)
    huge = Rows(rows.features * np.float32(1e19), rows.labels, rows.ids, {})
    path = make_cache(identity=IDENTITY, splits={"train": huge, "test": huge})
    cache = featcache.open_cache(path)
    groups = groups_in(tmp_path)
    [entry] = groups[1].entries
    entry.train = replace(entry.train, lr=1e30)
    store.set(GROUPS, written_groups(groups))

    train_taken(work_on(cache), store, rank=0, attempt=0)
    train_taken(work_on(cache), store, rank=1, attempt=0)
    watch = SweepWatch(store, groups, on_progress=silent, on_note=silent)
    watch.finish()

    assert store.get(claimed_key(0)) == b"0,1,2,"
    assert [group.is_done for group in groups] == [True, False, True]
    assert read_states(store.get(broken_key(1))).keys() == {entry.path.name}
    assert entry.state.problem.startswith("the loss became ")
    assert store.check([progress_key(0)])


def test_what_broke_off_is_not_tried_again_by_a_sweep_that_goes_on(
    make_cache: MakeCache, store: Store, tmp_path: Path
) -> None:
    rows = learnable_rows(200, seed=1)
    huge = Rows(rows.features * np.float32(1e19), rows.labels, rows.ids, {})
    cache = featcache.open_cache(make_cache(splits={"train": huge, "test": huge}))
    [group] = groups_in(tmp_path, 1)
    [entry] = group.entries
    entry.train = replace(entry.train, lr=1e30)
    store.set(GROUPS, written_groups([group]))
    train_taken(work_on(cache), store, rank=0, attempt=0)
    told = store.get(broken_key(0))
    store.set(broken_key(0), "{}")

    train_taken(work_on(cache), store, rank=0, attempt=1)

    assert store.get(broken_key(0)) == told


def test_a_worker_takes_no_group_once_another_has_refused(
    cache: featcache.Cache, store: Store, tmp_path: Path
) -> None:
    groups = groups_in(tmp_path)
    store.set(GROUPS, written_groups(groups))
    store.set(REFUSED, written_error(MismatchError("no")))

    train_taken(work_on(cache), store, rank=0, attempt=0)

    assert not any(group.is_done for group in groups)


def test_a_worker_refuses_a_cache_that_was_replaced(
    cache: featcache.Cache, store: Store, tmp_path: Path
) -> None:
    store.set(GROUPS, written_groups(groups_in(tmp_path)))

    with pytest.raises(MismatchError, match="is another cache than when the sweep began"):
        train_taken(work_on(cache, fingerprint="0" * 64), store, rank=0, attempt=0)


def test_features_that_do_not_fit_in_every_process_stay_in_the_file(
    cache: featcache.Cache, store: Store, tmp_path: Path
) -> None:
    kept, alone = groups_in(tmp_path / "file", 1), groups_in(tmp_path / "memory", 1)
    for groups, why in ((kept, "no room for two"), (alone, "")):
        store.set(GROUPS, written_groups(groups))
        train_taken(work_on(cache, stays_in_file=why), store, rank=0, attempt=len(why))

    assert head_in(kept) == head_in(alone)


def test_what_stays_in_the_file_is_read_from_it_during_training(
    cache: featcache.Cache, store: Store, tmp_path: Path
) -> None:
    whole = cache.path.read_bytes()
    at = whole.index(learnable_rows(200, seed=1).features[0].tobytes())
    heads = {}
    for why in ("no room for two", ""):
        for name, features in (("sound", b""), ("changed", bytes(4096))):
            groups = groups_in(tmp_path / (why or "memory") / name, 1)
            store.set(GROUPS, written_groups(groups))
            cache.path.write_bytes(whole)
            change = partial(overwrite, cache.path, at, features)
            work = work_on(cache, stays_in_file=why)
            train_taken(work, store, rank=0, attempt=len(heads), on_loaded=change)
            heads[why, name] = head_in(groups)

    assert heads["", "changed"] == heads["", "sound"]
    assert heads["no room for two", "changed"] != heads["no room for two", "sound"]
