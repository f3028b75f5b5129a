"""What training gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from featcache.heads.run_files import HeadRun
from featcache.training.folds.cross_validation import CrossValidation


@dataclass(frozen=True)
class TrainResult:
    """What `train_head` did.

    Attributes:
        runs: One for each seed.
        cache: The cache they were trained on.
        choices: What was chosen automatically, with the reason.
        remarks: What the figures do not say by themselves: a cache that was made from another
            folder than the one that was named, a head that is no better than the majority class,
            or whose last epoch was still the best.
        folds: What cross-validation says of such heads, where it was asked for.
    """

    runs: tuple[HeadRun, ...]
    cache: Path
    choices: Mapping[str, str]
    remarks: tuple[str, ...] = ()
    folds: CrossValidation | None = None

    @property
    def path(self) -> Path:
        """The folder of the first run."""
        return self.runs[0].path
