"""Lightning's count of optimiser steps: the one place that reaches into its private attributes.

Lightning counts a step where its own wrapper of an optimiser makes it. The steps of a SuperBatch
are made without the wrapper, which costs more than the step of a small head, so they are counted
here. Callbacks, loggers and checkpoints then see the same `global_step`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import pytorch_lightning as pl

from featcache.errors import UsageError

CHECKED_WITH = "2.6"
"""The version of Lightning that this file was checked with, by tests/training."""


class StepCount:
    """Counts optimiser steps of a Trainer as `_ManualOptimization` does, around each."""

    def __init__(self, trainer: pl.Trainer) -> None:
        """Find the count.

        Raises:
            UsageError: If this version of Lightning keeps it elsewhere.
        """
        try:
            self._progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        except AttributeError as err:
            raise UsageError(
                f"HeadModule counts its steps as pytorch-lightning {CHECKED_WITH} does, but "
                f"{version('pytorch_lightning')} is installed, which counts them elsewhere "
                f"({err}). Nothing was trained. Install it with: pip install "
                f"'pytorch-lightning=={CHECKED_WITH}.*'"
            ) from err

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count the step in the body; one that fails was begun, but not completed."""
        self._progress.increment_ready()
        yield
        self._progress.increment_completed()
