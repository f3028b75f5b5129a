"""What a run and its cache tell for a card: counts of the data, figures with their intervals."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featcache.core.reporting import NoteCallback
from featcache.errors import FeatcacheError
from featcache.heads.own_cache import require_own_cache
from featcache.heads.runs import RESULT_FILE
from featcache.heads.trained_head import TrainedHead
from featcache.store import describe_cache

_FIGURES = {
    "acc": "accuracy",
    "balanced_acc": "balanced accuracy",
    "loss": "cross-entropy",
    "macro_f1": "macro F1",
    "top_k": "top-5 accuracy",
}


@dataclass(frozen=True)
class Figure:
    """A figure of an evaluation.

    Attributes:
        name: For people.
        value: Over the images of the split.
        low: Lower end of its 95% interval; None where there is no interval.
        high: Its upper end.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """What is known of a head's data and of how good it is.

    Attributes:
        rows_per_class: By split, then by class name; empty where the cache is not at hand.
        figures: By split, those that `eval` wrote, or else that the training ended with.
        n_images: Images of each of these splits; None where only the training tells.
        largest_share: Of the images of each of these splits that `eval` saw, the share of the most
            frequent class.
    """

    rows_per_class: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    figures: Mapping[str, tuple[Figure, ...]] = field(default_factory=dict)
    n_images: Mapping[str, int | None] = field(default_factory=dict)
    largest_share: Mapping[str, float] = field(default_factory=dict)


def facts_of(head: TrainedHead, run: Path, *, cache_dir: Path, on_note: NoteCallback) -> RunFacts:
    """Read them; what cannot be read is left out with a note, as no probability depends on it."""
    counts: dict[str, Mapping[str, int]] = {}
    try:
        cache = require_own_cache(head, cache_dir)
        for split in describe_cache(cache.path).splits:
            counts[split.name] = split.rows_per_class
    except FeatcacheError:
        on_note(
            f"the cache {head.cache_path} is not at hand: the card counts no images of each class"
        )
    figures: dict[str, tuple[Figure, ...]] = {}
    n_images: dict[str, int | None] = {}
    shares: dict[str, float] = {}
    for path in sorted(run.glob("eval-*.json")):
        said = _read(path)
        if found := _figures(said):
            name = path.stem.removeprefix("eval-")
            figures[name], n_images[name] = found, said.get("n_images")
            per_class = [c["n"] for c in said.get("classes") or () if isinstance(c, dict)]
            if per_class and sum(per_class):
                shares[name] = max(per_class) / sum(per_class)
    if not figures:
        on_note(
            f"{run.name} was not evaluated: its card has no intervals. Run: featcache eval "
            f"{shlex.quote(str(run))}"
        )
        figures = _of_the_training(run)
    return RunFacts(counts, figures, n_images, shares)


def _of_the_training(run: Path) -> dict[str, tuple[Figure, ...]]:
    """Read the figures that a training ends with; they have no intervals."""
    said = _read(run / RESULT_FILE)
    found = {}
    for split in ("test", "val"):
        pairs = (("acc", "accuracy"), ("loss", "cross-entropy"))
        own = [(name, said.get(f"{split}_{key}")) for key, name in pairs]
        figures = tuple(Figure(n, float(v)) for n, v in own if isinstance(v, int | float))
        if figures:
            found[split] = figures
    return found


def _figures(said: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Read the figures of an evaluation."""
    found = []
    for key, name in _FIGURES.items():
        estimate = said.get(key)
        if isinstance(estimate, dict):
            numbers = [estimate.get(part) for part in ("value", "low", "high")]
            value, low, high = (n if isinstance(n, int | float) else None for n in numbers)
            if value is not None:
                found.append(Figure(name, value, low, high))
    calibration = said.get("calibration_error")
    if isinstance(calibration, int | float):
        found.append(Figure("expected calibration error", calibration))
    return tuple(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
