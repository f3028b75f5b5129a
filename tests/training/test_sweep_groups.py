"""The groups of a grid, and the heads of a group that broke off."""

from __future__ import annotations

from pathlib import Path

import torch

from featcache.training.sweeps.devices.work import read_states, written_states
from featcache.training.sweeps.entry import EntryState
from featcache.training.sweeps.groups import groups_of
from tests.training.groups_of_heads import entry_of


def test_groups_follow_from_the_heads_and_not_from_the_order_in_which_they_were_typed(
    tmp_path: Path,
) -> None:
    shapes, rates = ((8,), (), (8, 4)), (0.1, 0.01)
    grid = [
        entry_of(tmp_path, seed, hidden=shape, lr=lr)
        for shape in shapes
        for lr in rates
        for seed in range(9)
    ]
    stem = tmp_path / "sweep-00000000"

    typed, reversed_ = (
        groups_of(entries, stem, n_features=12, n_classes=3) for entries in (grid, grid[::-1])
    )

    assert [[e.path for e in g.entries] for g in typed] == [
        [e.path for e in g.entries] for g in reversed_
    ]
    assert [len(g.entries) for g in typed] == [8, 8, 2] * 3
    assert all(len({e.member.spec.hidden for e in g.entries}) == 1 for g in typed)
    assert [g.checkpoint.name for g in typed[:2]] == [
        "sweep-00000000-group-0.partial",
        "sweep-00000000-group-1.partial",
    ]


def test_heads_of_many_parameters_have_a_group_each(tmp_path: Path) -> None:
    grid = [entry_of(tmp_path, seed, hidden=(256,)) for seed in range(3)]

    groups = groups_of(grid, tmp_path / "sweep", n_features=150_528, n_classes=10)

    assert [len(group.entries) for group in groups] == [1, 1, 1]


def test_states_that_come_back_from_a_worker_are_those_that_it_had(tmp_path: Path) -> None:
    [entry] = [entry_of(tmp_path, 0)]
    entry.state = EntryState(problem="the loss became nan at step 3", best=[torch.zeros(1)])
    [group] = groups_of([entry], tmp_path / "sweep", n_features=12, n_classes=3)

    found = read_states(written_states(group.entries).encode())

    assert found[entry.path.name].problem == entry.state.problem
    assert found[entry.path.name].best is None
