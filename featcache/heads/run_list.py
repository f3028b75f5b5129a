"""What the runs in a folder are: settings, figures and age, read without their weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featcache.config import TrainSpec
from featcache.config.solver_specs import MLP
from featcache.core.paths import expanded
from featcache.errors import FeatcacheError, clipped
from featcache.heads.head_file import HEAD_FILE, read_description
from featcache.heads.runs import RESULT_FILE, list_runs

_HEAD = ("reg", "l1", "weight_decay", "dropout", "hidden")
_TRAINING = ("lr", "batch_size", "max_epochs", "patience", "select", "seed")
_LATER = ("class_weight", "label_smoothing")  # a head says them where they are not at their default
_FOUND = ("C", "k", "alpha", "temperature", "shrinkage")
_FIGURES = ("val_loss", "val_acc", "test_loss", "test_acc", "seconds")


@dataclass(frozen=True)
class RunSummary:
    """One line of a listing.

    Attributes:
        path: The run's folder.
        state: "finished", "stopped" (the same command goes on), or "damaged".
        trained: When its head was written: ISO 8601, UTC.
        age_s: Seconds since then.
        dataset: Its dataset.
        backbone: Its backbone.
        settings: Of an MLP: reg, l1, weight_decay, dropout, hidden; lr, batch_size, max_epochs,
            patience, select, seed, class_weight, label_smoothing; and where it has a treatment,
            solver and features. Of another solver: solver, features, and the C, k, alpha,
            temperature or shrinkage that it found.
        n_epochs: Epochs that were trained, so far if it was stopped.
        kept_epoch: The epoch whose weights are kept, from 1.
        figures: val_loss, val_acc, test_loss, test_acc, seconds; None where there is none.
        problem: Why it is damaged.
    """

    path: Path
    state: str
    trained: str
    age_s: float
    dataset: str = ""
    backbone: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    n_epochs: int = 0
    kept_epoch: int = 0
    figures: Mapping[str, float | None] = field(default_factory=dict)
    problem: str = ""


def describe_runs(runs_dir: str | os.PathLike[str]) -> list[RunSummary]:
    """Describe the runs below a folder that have a head, the newest last.

    Nothing is verified: that is `load_head`. A run that cannot be read is no error.

    Args:
        runs_dir: Folder of all runs.
    """
    return [_described(path) for path in list_runs(expanded(runs_dir))]


def _described(path: Path) -> RunSummary:
    written = datetime.fromtimestamp((path / HEAD_FILE).stat().st_mtime, UTC)
    age_s = (datetime.now(UTC) - written).total_seconds()
    when: dict[str, Any] = {
        "path": path,
        "trained": written.isoformat(timespec="seconds"),
        "age_s": age_s,
    }
    try:
        said = read_description(path / HEAD_FILE)
        is_finished = bool(said["is_finished"])
        figures = json.loads((path / RESULT_FILE).read_bytes()) if is_finished else {}
        return RunSummary(
            **when,
            state="finished" if is_finished else "stopped",
            dataset=str(said["dataset"]),
            backbone=str(said["cache"]["identity"]["backbone"]),
            settings=_settings(said),
            n_epochs=int((figures if is_finished else said)["n_epochs"]),
            kept_epoch=int(said["n_epochs"]),  # epochs that the head has seen
            figures={name: _number(figures.get(name)) for name in _FIGURES},
        )
    except (FeatcacheError, OSError, LookupError, TypeError, ValueError, AttributeError) as err:
        return RunSummary(**when, state="damaged", problem=f"{path}: {clipped(str(err))}")


def _settings(said: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what decides a head, and what its solver found, by name."""
    solver = said.get("solver", {})
    found = {name: value for name, value in said.get("found", {}).items() if name in _FOUND}
    if solver.get("solver", MLP) != MLP:
        return {**solver, **found}
    settings = {name: said["head"][name] for name in _HEAD}
    settings |= {name: said["train"][name] for name in _TRAINING}
    settings |= {name: said["train"].get(name, getattr(TrainSpec, name)) for name in _LATER}
    return {**settings, **solver}


def _number(value: object) -> float | None:
    if value is None or isinstance(value, int | float):
        return value
    raise TypeError(f"{value!r} where a number was expected")
