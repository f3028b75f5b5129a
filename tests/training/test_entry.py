"""What a sweep keeps of its heads is read as it was written, and checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featcache.errors import CorruptError
from featcache.training.sweeps.entry import EntryState, SweepCheckpoint

ROW = {"epoch": 1.0, "train_loss": 0.9, "val_loss": 0.8, "val_acc": 0.5, "step": 10.0}


def content() -> dict[str, Any]:
    """Make what version 0.1 wrote after an epoch: one head going on, one that broke off."""
    weights = [torch.ones(2, 3), torch.zeros(2)]
    head = {
        "history": [ROW],
        "seconds": 1.5,
        "waited_from": 0.8,
        "n_waited": 0,
        "best_loss": 0.8,
        "best": weights,
        "problem": "",
    }
    moments = {"first_moments": weights, "second_moments": weights}
    broken = {**head, "best": None, "waited_from": math.inf, "problem": "the loss became nan"}
    return {
        "epoch": 1,
        "heads": {"a": head},
        "states": {"a": {"parameters": weights, **moments, "n_steps": 10}},
        "broken": {"b": broken},
    }


def test_a_checkpoint_of_version_0_1_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "before")

    kept = SweepCheckpoint.read(tmp_path / "before")
    kept.write(tmp_path / "after")

    assert (kept.epoch, kept.states["a"].n_steps) == (1, 10)
    assert kept.heads["a"].history == (ROW,)
    assert kept.broken["b"].problem == "the loss became nan"
    before, after = (torch.load(tmp_path / name) for name in ("before", "after"))
    assert repr(after) == repr(before)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda said: said["heads"]["a"].update(judge=1), "the field judge is not known"),
        (lambda said: said["heads"]["a"].update(n_waited="0"), "the field n_waited is '0'"),
        (lambda said: said["heads"]["a"].update(history=3), "the history is no list"),
        (lambda said: said["heads"]["a"].update(best=[1]), "what should be weights are no tensors"),
        (lambda said: said["broken"].update(b=1), "a head is no mapping"),
        (lambda said: said["states"]["a"].pop("n_steps"), "the field n_steps is missing"),
        (lambda said: said["states"].clear(), "heads and weights are not of the same names"),
        (lambda said: said.update(heads=1), "'int' object has no attribute 'items'"),
    ],
)
def test_a_checkpoint_that_says_something_else_is_refused(
    change: Callable[[dict[str, Any]], None], problem: str, tmp_path: Path
) -> None:
    said = content()
    change(said)
    torch.save(said, tmp_path / "sweep")

    with pytest.raises(CorruptError) as err:
        SweepCheckpoint.read(tmp_path / "sweep")

    assert str(err.value).startswith(f"{tmp_path / 'sweep'} is damaged ({problem}")
    assert "Remove it: the heads that were finished are kept" in str(err.value)


def test_a_new_head_has_seen_nothing() -> None:
    state = EntryState()

    assert (state.history, state.best, state.best_loss) == ((), None, math.inf)
