"""Fit the classifiers of a probe on one cache, and ask all of them in one pass over the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from featcache.core.arithmetic import head_arithmetic
from featcache.core.failures import device_failures_named
from featcache.core.plain_torch import plain_torch
from featcache.core.stopping import stop_if_asked
from featcache.errors import counted
from featcache.heads.treatment import UnitLength
from featcache.insight.classifiers import SOLVERS, FittedClassifier, Sample, fit
from featcache.insight.probe_result import MAJORITY
from featcache.insight.probe_rows import (
    ChosenRows,
    ProbeRows,
    few_of_each_class,
    load_part,
)
from featcache.insight.stored_rows import stored_rows
from featcache.store import Cache

_TESTED_VALUES = 1 << 23  # of a batch of the tested rows
_MOST_ROWS = 1024  # of such a batch


class Classifier(NamedTuple):
    """One classifier of a probe.

    Attributes:
        solver: As `train-head --solver` names it.
        per_class: Images of each class that it was given; 0 is all.
        i_try: Which draw of these.
    """

    solver: str
    per_class: int = 0
    i_try: int = 0


@dataclass(frozen=True, eq=False)
class ProbeAnswers:
    """What the classifiers of one cache say of the M tested rows.

    Attributes:
        predictions: (M,) the most probable class of each row, by classifier.
        losses: Mean cross-entropy, by classifier.
        settings: What was chosen by validation, by classifier.
        at_ends: "k" or "C" where that is the first or last value of those tried, by classifier.
    """

    predictions: Mapping[Classifier, npt.NDArray[np.int64]]
    losses: Mapping[Classifier, float]
    settings: Mapping[Classifier, str]
    at_ends: Mapping[Classifier, str]


@torch.no_grad()
@plain_torch()
def answers_of(
    cache: Cache,
    rows: ProbeRows,
    *,
    per_class: Sequence[int],
    tries: int,
    seed: int,
    device: torch.device,
    solvers: Sequence[str] = SOLVERS,
) -> ProbeAnswers:
    """Fit and ask all classifiers.

    Args:
        cache: The cache, which was verified.
        rows: The rows.
        per_class: Numbers of images of each class, for the few-shot curve.
        tries: Draws of these.
        seed: Seeds the first of the draws.
        device: Where to compute.
        solvers: Which classifiers, beside the largest class.

    Raises:
        DeviceError: If the device fails or has no memory left.
    """
    failures = device_failures_named(str(device), "The probe", kept=lambda: "Nothing was changed.")
    with head_arithmetic(str(device)), failures:
        train, val = (_sample(cache, part, device) for part in (rows.train, rows.val))
        fitted = {Classifier(solver): fit(solver, train, val) for solver in solvers}
        for n in per_class:
            for i in range(tries):
                drawn = few_of_each_class(rows.all_train.labels, n, seed=seed + i)
                few = ChosenRows(
                    rows.all_train.split, rows.all_train.rows[drawn], rows.all_train.labels[drawn]
                )
                sample = _sample(cache, few, device)
                fitted |= {
                    Classifier(solver, n, i): fit(solver, sample, None) for solver in solvers
                }
        predictions, losses = _ask(cache, rows.test, fitted, device)
    largest = int(torch.bincount(rows.train.labels).argmax())
    predictions[Classifier(MAJORITY)] = np.full(len(rows.test.rows), largest)
    settings = {asked: one.setting for asked, one in fitted.items()}
    at_ends = {asked: one.at_end for asked, one in fitted.items() if one.at_end}
    return ProbeAnswers(predictions, losses, settings, at_ends)


def _sample(cache: Cache, part: ChosenRows, device: torch.device) -> Sample:
    stop_if_asked()
    features = load_part(cache, part, device=device)
    return Sample(features, part.labels.to(device), len(cache.class_names))


def _ask(
    cache: Cache,
    test: ChosenRows,
    fitted: Mapping[Classifier, FittedClassifier],
    device: torch.device,
) -> tuple[dict[Classifier, npt.NDArray[np.int64]], dict[Classifier, float]]:
    """Ask all classifiers of each batch."""
    given: dict[Classifier, list[Tensor]] = {asked: [] for asked in fitted}
    losses = dict.fromkeys(fitted, 0.0)
    rows, unit_length = stored_rows(cache, test.split, device), UnitLength()
    n_rows = max(1, min(_MOST_ROWS, _TESTED_VALUES // cache.n_features))
    for index in test.rows.split(n_rows):
        stop_if_asked()
        features, labels = rows.take(index)
        unit_rows = unit_length(features)  # once for all that want them
        for asked, one in fitted.items():
            log_p = one.log_p(unit_rows if one.is_of_unit_rows else features)
            given[asked].append(log_p.argmax(1).cpu())
            losses[asked] += float(nll_loss(log_p, labels, reduction="sum"))
    predictions = {asked: torch.cat(parts).numpy() for asked, parts in given.items()}
    return predictions, {asked: loss / len(test.rows) for asked, loss in losses.items()}


def usable_counts(
    per_class: Sequence[int], train: ChosenRows, names: Sequence[str]
) -> tuple[list[int], str]:
    """Leave out the numbers of images that some class does not have.

    Returns:
        Those that are left, and a sentence about the others; empty if there are none.
    """
    counts = torch.bincount(train.labels, minlength=len(names))
    present = counts.nonzero().flatten()
    smallest = int(present[counts[present].argmin()])
    least = int(counts[smallest])
    left = [n for n in per_class if n <= least]
    if len(left) == len(per_class):
        return left, ""
    missing = ",".join(str(n) for n in per_class if n > least)
    return left, (
        f"--per-class {missing} is left out: {names[smallest]!r}, the smallest class, has "
        f"{counted(least, 'training image')}"
    )
