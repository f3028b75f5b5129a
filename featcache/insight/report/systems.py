"""Runs of one setting, which differ in their seeds alone, are one system with one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.identity import canonical_json
from featcache.evaluation.metrics import (
    LOSSES,
    SHARES,
    Estimate,
    Interval,
    MeanEstimate,
    mcnemar_p,
)
from featcache.heads.trained_head import TrainedHead
from featcache.insight.report.judged_run import JudgedRun

_SEEDS = ("seed", "order_seed")
_TAIL_PERCENT = 2.5
_DRAWS_AT_A_TIME = 50


@dataclass(frozen=True, eq=False)
class ReportedSystem:
    """A setting with its heads.

    Attributes:
        name: By which it is told from the others: as a run's folder, and what else differs.
        runs: Its heads, by seed.
    """

    name: str
    runs: Sequence[JudgedRun]

    @property
    def head(self) -> TrainedHead:
        """The head of the first seed."""
        return self.runs[0].head

    @property
    def answered(self) -> Sequence[JudgedRun]:
        """The runs whose answers are known."""
        return [run for run in self.runs if run.evaluation is not None]

    @property
    def split(self) -> str:
        """The split of these answers; empty if there are none."""
        return next((r.evaluation.split for r in self.runs if r.evaluation is not None), "")

    @property
    def acc(self) -> Estimate | None:
        """Accuracy with its 95% interval, as `over_seeds` tells it."""
        accs = [r.evaluation.acc for r in self.runs if r.evaluation is not None]
        return over_seeds(accs, SHARES)

    @property
    def loss(self) -> Estimate | None:
        """Mean cross-entropy likewise; None if a head has no probabilities."""
        losses = [r.evaluation.loss for r in self.runs if r.evaluation is not None]
        known = [loss for loss in losses if loss is not None]
        return over_seeds(known, LOSSES) if len(known) == len(losses) else None

    @property
    def macro_f1(self) -> Estimate | None:
        """F1, averaged over the classes, likewise."""
        figures = [r.evaluation.macro_f1 for r in self.runs if r.evaluation is not None]
        return over_seeds(figures, SHARES)

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error, the mean over the seeds; None if there is none."""
        errors = [r.evaluation.calibration_error for r in self.runs if r.evaluation is not None]
        known = [error for error in errors if error is not None]
        return float(np.mean(known)) if known else None

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """(S, N) which image each of its S answered heads gets right."""
        return np.stack(
            [r.evaluation.answers.is_right for r in self.runs if r.evaluation is not None]
        )


@dataclass(frozen=True)
class PairedTest:
    """Two systems on the same images.

    Attributes:
        difference: Accuracy of the one less that of the other, with its 95% interval.
        p_value: McNemar's exact test of one head against one; None where there are several.
    """

    difference: Estimate
    p_value: float | None


def over_seeds(estimates: Sequence[Estimate], possible: Interval) -> Estimate | None:
    """Sum up a figure over seeds.

    Of one head it is the head's own estimate, whose interval draws images. Of several it is the
    mean with Student's t interval over the seeds.

    Args:
        estimates: Of each head; none gives None.
        possible: What the figure can be.
    """
    if len(estimates) < 2:
        return estimates[0] if estimates else None
    found = MeanEstimate.of([estimate.value for estimate in estimates], possible)
    assert found.low is not None
    assert found.high is not None
    return Estimate(found.mean, found.low, found.high)


def compared(
    one: ReportedSystem, other: ReportedSystem, *, draws: int, seed: int
) -> PairedTest | None:
    """Compare two systems image by image; None if they did not answer for the same images.

    Each draw of the bootstrap takes images with replacement, the same for both, and heads of each
    with replacement. Of one head each it is that of `featcache eval`.

    Args:
        one: A system.
        other: Another.
        draws: Bootstrap samples.
        seed: Seeds them.
    """
    if not one.answered or not other.answered or not _are_of_the_same_images(one, other):
        return None
    a, b = one.is_right, other.is_right
    rng = np.random.default_rng(seed)
    differences = _drawn(a, rng, draws, seed) - _drawn(b, rng, draws, seed)
    low, high = np.percentile(differences, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    difference = Estimate(float(a.mean() - b.mean()), float(low), float(high))
    p_value = None
    if len(a) == len(b) == 1:
        gained = a[0].astype(np.int64) - b[0]
        p_value = mcnemar_p(int((gained > 0).sum()), int((gained < 0).sum()))
    return PairedTest(difference, p_value)


def _drawn(
    right: npt.NDArray[np.bool_], rng: np.random.Generator, draws: int, seed: int
) -> npt.NDArray[np.float64]:
    """Draw accuracies, (draws,): of the same images for all systems, and of each its heads."""
    n_heads, n = right.shape
    images = np.random.default_rng(seed)  # as `metrics.bootstrap` draws them
    found = []
    for start in range(0, draws, _DRAWS_AT_A_TIME):
        n_now = min(_DRAWS_AT_A_TIME, draws - start)
        rows = np.stack([images.integers(0, n, n) for _ in range(n_now)])
        by_head = right[:, rows].mean(2)  # (S, n_now)
        heads = rng.integers(0, n_heads, (n_heads, n_now))
        found.append(np.take_along_axis(by_head, heads, axis=0).mean(0))
    return np.concatenate(found)


def _are_of_the_same_images(one: ReportedSystem, other: ReportedSystem) -> bool:
    runs = [*one.answered, *other.answered]
    first = runs[0].evaluation
    assert first is not None
    dataset = runs[0].head.cache_identity.get("dataset_sha256")
    for run in runs[1:]:
        found = run.evaluation
        assert found is not None
        if found.split != first.split or found.answers.ids != first.answers.ids:
            return False
        if not np.array_equal(found.answers.labels, first.answers.labels):
            return False
        if run.head.cache_identity.get("dataset_sha256") != dataset:
            return False
    return True


def systems_of(runs: Sequence[JudgedRun]) -> list[ReportedSystem]:
    """Make systems of runs, in the order in which their settings come first."""
    by_setting: dict[str, list[JudgedRun]] = {}
    for run in runs:
        by_setting.setdefault(canonical_json(setting_of(run.head)), []).append(run)
    groups = [sorted(group, key=lambda run: run.head.train.seed) for group in by_setting.values()]
    names = _names([group[0].head for group in groups])
    return [ReportedSystem(name, group) for name, group in zip(names, groups, strict=True)]


def setting_of(head: TrainedHead) -> dict[str, Any]:
    """Tell what decides a head but its seeds."""
    train = {name: value for name, value in head.train.to_json().items() if name not in _SEEDS}
    if not head.solver.is_mlp:
        train = {name: train[name] for name in ("val_fraction", "split_seed")}
    return {
        **asdict(head.spec),
        **train,
        **head.solver.identity,
        "cache": head.cache_fingerprint,
    }


def _names(heads: Sequence[TrainedHead]) -> list[str]:
    """Name each as its run's folder begins, and by what tells it from others of that name."""
    names = [f"{h.backbone}-{h.spec.reg if h.solver.is_mlp else h.solver.solver}" for h in heads]
    settings = [setting_of(head) for head in heads]
    named = []
    for name, setting in zip(names, settings, strict=True):
        alike = [s for n, s in zip(names, settings, strict=True) if n == name]
        words = [
            f"{_word(key)} {_typed(setting.get(key))}"
            for key in dict.fromkeys(key for s in alike for key in s)
            if any(_differ(s, setting, key) for s in alike)
        ]
        named.append(", ".join([name, *words]))
    return named


def _differ(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    return bool(one.get(key) != other.get(key))


def _word(key: str) -> str:
    return key.replace("_", " ")


def _typed(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)[:8] if isinstance(value, str) and len(value) == 64 else str(value)
