"""Early stopping is one rule, for a head that is trained alone and for those of a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping

import featcache
from featcache.training.patience import Patience
from featcache.training.train_result import TrainResult
from featcache.training.trainer import StopEarly


@pytest.mark.parametrize(
    ("epochs", "losses", "stops_after"),
    [
        (2, [1.0, 0.8, 0.75, 0.74, 0.1], 4),  # 0.75 and 0.74 are less than 0.1 better than 0.8
        (2, [1.0, 0.8, 0.75, 0.6, 0.6, 0.6], 6),
        (1, [1.0, 1.0], 2),
        (1, [1.0, math.nan], 2),
        (0, [1.0] * 9, None),
    ],
)
def test_it_is_over_after_so_many_epochs_without_a_better_loss(
    epochs: int, losses: list[float], stops_after: int | None
) -> None:
    patience = Patience(epochs, min_delta=0.1)
    over = []

    for loss in losses:
        patience = patience.after(loss)
        over.append(patience.is_over)

    assert over == [i == stops_after for i in range(1, len(losses) + 1)]


@pytest.mark.parametrize("min_delta", [0.0, 0.05])
def test_a_head_alone_and_one_of_a_sweep_stop_at_the_same_epoch(
    train: Callable[..., TrainResult],
    cache: featcache.Cache,
    tmp_path: Path,
    min_delta: float,
) -> None:
    settings: dict[str, Any] = {
        "lr": 0.03,
        "max_epochs": 30,
        "patience": 2,
        "min_delta": min_delta,
        "select": "last",
    }

    [alone] = train(**settings).runs
    swept = featcache.sweep(
        cache, hidden=((8,),), batch_size=16, **settings, runs_dir=tmp_path / "swept"
    )

    [setting] = swept.settings
    assert alone.stopped_early
    assert alone.n_epochs == setting.n_epochs
    assert [path.name for path in setting.runs] == [alone.path.name]


def test_a_checkpoint_of_lightnings_early_stopping_is_taken() -> None:
    class _Patience(EarlyStopping):
        """What stood in checkpoints of version 0.1."""

    before = _Patience("val_loss", min_delta=0.1, patience=3)
    before.wait_count, before.best_score = 2, torch.tensor(0.5)
    after = StopEarly(Patience(3, min_delta=0.1))

    after.load_state_dict(before.state_dict())

    assert before.state_key.rpartition(".")[2] == after.state_key
    assert after.patience == Patience(3, 0.1, waited_from=0.5, n_waited=2)
    again = StopEarly(Patience(3, min_delta=0.1))
    again.load_state_dict(after.state_dict())
    assert again.patience == after.patience
