"""What a probe found; no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.evaluation.metrics import Estimate, MeanEstimate

MAJORITY = "majority"


@dataclass(frozen=True)
class ProbeFigures:
    """One classifier on one cache.

    Attributes:
        solver: "majority" (always the largest class), or as `train-head --solver` names it.
        setting: What it chose by validation, such as "k 20"; empty if there is nothing to choose.
        acc: Share of the tested images that are right.
        balanced_acc: Recall, averaged over the classes; None where all have about as many images.
        loss: Mean cross-entropy; None if it gives no probabilities, or none to a tested class.
        difference: Its accuracy less that on the first cache, by paired bootstrap; None on the
            first.
    """

    solver: str
    setting: str
    acc: Estimate
    balanced_acc: Estimate | None
    loss: float | None
    difference: Estimate | None


@dataclass(frozen=True)
class FewShotFigures:
    """One classifier that was given a few images of each class.

    Attributes:
        solver: As of ProbeFigures.
        per_class: Training images of each class.
        acc: Mean accuracy over the tries, with its interval.
    """

    solver: str
    per_class: int
    acc: MeanEstimate


@dataclass(frozen=True)
class ProbedCache:
    """What is known of one cache.

    Attributes:
        path: Its file.
        backbone: Its backbone.
        n_features: D.
        classifiers: The largest class first, then by effort.
        few_shot: The curve, by classifier and number of images; empty if it was not asked for.
        seconds: Wall time, without the verification of the file.
    """

    path: Path
    backbone: str
    n_features: int
    classifiers: tuple[ProbeFigures, ...]
    few_shot: tuple[FewShotFigures, ...]
    seconds: float


@dataclass(frozen=True)
class ProbeResult:
    """How good caches of one dataset are for telling its classes apart.

    Attributes:
        dataset: The dataset.
        n_classes: Classes that have training images.
        n_train: Images that were fitted.
        n_val: Images by which settings were chosen.
        split: The split that was tested: "test", or "val" where there is no test.
        n_test: Its images.
        tries: How often the few images of each class were drawn.
        caches: By cache, in the order in which they were given.
        remarks: What the figures do not say by themselves.
    """

    dataset: str
    n_classes: int
    n_train: int
    n_val: int
    split: str
    n_test: int
    tries: int
    caches: tuple[ProbedCache, ...]
    remarks: tuple[str, ...]


_COLUMNS = (
    *("cache", "backbone", "n_features", "solver", "setting", "per_class", "n_train", "n_test"),
    *("acc", "acc_low", "acc_high", "acc_sd", "balanced_acc", "loss"),
    *("difference", "difference_low", "difference_high"),
)


def as_csv(result: ProbeResult) -> str:
    """Write all figures as one table; of the few-shot curve the means over the tries."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cache in result.caches:
        writer.writerows(_rows_of(cache, result))
    return text.getvalue()


def _rows_of(cache: ProbedCache, result: ProbeResult) -> Sequence[dict[str, Any]]:
    shared = {
        "cache": str(cache.path).encode(errors="backslashreplace").decode(),
        "backbone": cache.backbone,
        "n_features": cache.n_features,
        "n_test": result.n_test,
    }
    whole = [
        {
            **shared,
            "solver": one.solver,
            "setting": one.setting,
            "n_train": result.n_train,
            **_interval("acc", one.acc),
            "balanced_acc": one.balanced_acc and one.balanced_acc.value,
            "loss": one.loss,
            **_interval("difference", one.difference),
        }
        for one in cache.classifiers
    ]
    few = [
        {
            **shared,
            "solver": one.solver,
            "per_class": one.per_class,
            "n_train": one.per_class * result.n_classes,
            "acc": one.acc.mean,
            "acc_low": one.acc.low,
            "acc_high": one.acc.high,
            "acc_sd": one.acc.sd,
        }
        for one in cache.few_shot
    ]
    return [*whole, *few]


def _interval(name: str, estimate: Estimate | None) -> dict[str, float]:
    if estimate is None:
        return {}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
