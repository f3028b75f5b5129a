"""The options of a whole call: how many heads, from which cache, how they are judged."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.config.specs import MOST_SEEDS, RECIPES, ExtractSpec
from featcache.core.arguments import device_name, typed
from featcache.core.options import check_fields, option, options_in
from featcache.core.paths import expanded
from featcache.errors import UsageError

MOST_FOLDS = 1000  # of one setting; each trains a head


@options_in("Runs")
@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What training takes besides: which cache, how many heads, where they go."""

    cache: str | None = option(
        None, "A cache file, or part of its name as `cache ls` shows it.", group="Cache"
    )
    recipe: str = option(
        "auto",
        "Where values that are not given come from. notebook: its constants. general: learning "
        "rate 1e-3, early stopping. auto: notebook on its own data and backbones, else general.",
        choices=RECIPES,
        group="Training",
    )
    seeds: int = option(
        1,
        "Train this many heads, with the seeds seed, seed+1, ...",
        least=1,
        most=MOST_SEEDS,
        group="Training",
    )
    folds: int | None = option(
        None,
        "Also tell how good such a head is by cross-validation: train this many heads, each "
        "without a part of the images, and test it on that part.",
        least=2,
        most=MOST_FOLDS,
        unset="none",
        group="Validation",
    )
    max_memory: int | None = option(
        None,
        "Memory for features; more is read in windows.",
        least=1,
        unset="what is free",
        unit="bytes",
        group="Machine",
    )
    resume: bool = option(
        True, "Continue a stopped run, or start it again. A finished run is reused."
    )
    runs_dir: str = option("runs", "Folder of all runs.")
    device: str = ExtractSpec.device  # this one and the next are options of ExtractSpec
    cache_dir: str = ExtractSpec.cache_dir

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "device", device_name(self.device))
        for name in ("runs_dir", "cache_dir"):
            object.__setattr__(self, name, str(expanded(getattr(self, name))))
        if self.folds is not None and self.seeds > 1:
            raise UsageError(
                f"--folds {self.folds} is of one seed, but --seeds is {self.seeds}. Nothing was "
                f"started. Give one of them."
            )


@options_in("Figures")
@dataclass(frozen=True, kw_only=True)
class EvaluateSpec:
    """How a head is evaluated."""

    split: str | None = option(
        None,
        "The split to evaluate on: test, val, train, or another of the cache.",
        unset="test, or val where there is no test",
    )
    draws: int = option(1000, "Bootstrap samples for the 95% intervals.", least=1, most=100_000)
    seed: int = option(0, "Seed of the bootstrap samples.", least=0)
    tta: bool = option(
        False,
        "Average the probabilities of all views of each image, where the cache has several.",
    )

    def __post_init__(self) -> None:
        check_fields(self)


@options_in("Comparison")
@dataclass(frozen=True, kw_only=True)
class ParitySpec:
    """What `parity` compares, where that differs from an extraction and a training."""

    limit: int = option(512, "Compare this many images of each split, evenly spaced.", least=1)
    levels: tuple[int, ...] = option(
        (1, 2), "1 compares features, 2 losses and predictions, 3 results over seeds."
    )
    epochs: int = option(2, "Epochs of each training.", least=1, group="Training")
    lr: float = option(
        1e-3, "Learning rate of Adam.", group="Training"
    )  # so that a few steps show a difference
    seeds: int = option(5, "Trainings of level 3.", least=1, group="Training")
    as_notebook: bool = option(
        False, "Also train as the notebook does, with the backbone in training mode, and compare."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.levels or set(self.levels) - {1, 2, 3}:
            raise UsageError(f"--levels is {typed(self.levels)}, but must be of 1, 2, 3.")
