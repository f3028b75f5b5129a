"""What is done to Lightning's private count of steps is what Lightning does."""

from __future__ import annotations

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import featcache
from featcache.errors import UsageError
from featcache.features.datamodule import FeatureDataModule
from featcache.training.lightning_steps import CHECKED_WITH, StepCount
from featcache.training.module import HeadModule

# Lightning 2.6.6 calls what torch 2.14 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec")


def test_this_version_of_lightning_is_the_one_that_was_checked() -> None:
    assert version("pytorch_lightning").startswith(f"{CHECKED_WITH}."), (
        f"Lightning {version('pytorch_lightning')} is new here. Compare StepCount with its "
        f"_ManualOptimization._on_before_step and _on_after_step, then set CHECKED_WITH."
    )


def test_the_steps_of_a_superbatch_are_counted_as_lightnings_own(cache: featcache.Cache) -> None:
    def counted(steps_per_batch: int) -> tuple[int, dict[str, Any]]:
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        head = HeadModule(n_features=12, n_classes=3)
        trainer.fit(head, FeatureDataModule(cache, batch_size=16, steps_per_batch=steps_per_batch))
        manual = trainer.fit_loop.epoch_loop.manual_optimization
        return trainer.global_step, manual.optim_step_progress.state_dict()

    by_lightning, by_step_count = counted(1), counted(64)

    assert by_step_count == by_lightning
    assert by_lightning[0] == 20


def test_a_step_that_fails_was_begun_but_not_completed() -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    count = StepCount(trainer)

    with count.step():
        torch.zeros(1)
    with pytest.raises(KeyboardInterrupt), count.step():
        raise KeyboardInterrupt

    total = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    assert (total.ready, total.completed) == (2, 1)


def test_a_lightning_that_counts_elsewhere_is_told_with_what_to_install() -> None:
    other: Any = SimpleNamespace(fit_loop=SimpleNamespace())

    with pytest.raises(UsageError, match=r"counts them elsewhere .*pytorch-lightning==2\.6\.\*'$"):
        StepCount(other)
