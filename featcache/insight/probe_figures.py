"""The figures of a probe: accuracies with intervals, and the differences between caches."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from featcache.config import EvaluateSpec, ProbeSpec
from featcache.core.device import pick_device
from featcache.core.paths import native
from featcache.core.reporting import NoteCallback
from featcache.errors import clipped, counted
from featcache.evaluation.metrics import (
    SHARES,
    Estimate,
    IntArray,
    MeanEstimate,
    are_unequal,
    balanced_accuracy,
    bootstrap,
)
from featcache.insight.classifiers import SOLVERS
from featcache.insight.probe_cache import Classifier, ProbeAnswers, answers_of, usable_counts
from featcache.insight.probe_result import (
    MAJORITY,
    FewShotFigures,
    ProbedCache,
    ProbeFigures,
    ProbeResult,
)
from featcache.insight.probe_rows import ProbeRows, choose_rows
from featcache.store import Cache


def probed(
    caches: Sequence[Cache],
    asked: ProbeSpec,
    figures: EvaluateSpec,
    *,
    device: str,
    on_note: NoteCallback,
) -> ProbeResult:
    """Probe caches of the same images, which were verified.

    Args:
        caches: The caches.
        asked: What is asked for.
        figures: How intervals are drawn.
        device: "auto", "cpu", "cuda" or "cuda:N".
        on_note: Told each choice.
    """
    chosen = pick_device(device)
    on_note(f"device {chosen.told}")
    where, first = torch.device(chosen.value), caches[0]
    rows = choose_rows(caches, max_rows=asked.max_rows, seed=figures.seed, on_note=on_note)
    remarks = []

    def remark(text: str) -> None:
        remarks.append(text)
        on_note(text)

    per_class, left_out = usable_counts(asked.per_class or (), rows.all_train, first.class_names)
    if left_out:
        remark(left_out)
    if unseen := _unseen(rows, first.class_names):
        remark(unseen)
    known: list[ProbeAnswers] = []
    found = []
    for cache in caches:
        started = time.perf_counter()
        answers = answers_of(
            cache, rows, per_class=per_class, tries=asked.tries, seed=figures.seed, device=where
        )
        known.append(answers)
        for told in _at_ends(answers, cache):
            remark(told)
        found.append(
            ProbedCache(
                path=cache.path,
                backbone=cache.identity.backbone,
                n_features=cache.n_features,
                classifiers=_classifiers(answers, known[0], rows, first, figures),
                few_shot=_curve(answers, rows, per_class, asked.tries),
                seconds=time.perf_counter() - started,
            )
        )
    if any(point.acc.is_of_few for cache in found for point in cache.few_shot):
        remark(f"the intervals of the curve are of {asked.tries} tries: of so few they are wide")
    return ProbeResult(
        dataset=native(first.provenance.dataset),
        n_classes=len(rows.train.labels.unique()),
        n_train=len(rows.train.rows),
        n_val=len(rows.val.rows),
        split=rows.tested_as,
        n_test=len(rows.test.rows),
        tries=asked.tries,
        caches=tuple(found),
        remarks=tuple(remarks),
    )


def _classifiers(
    answers: ProbeAnswers,
    of_first: ProbeAnswers,
    rows: ProbeRows,
    cache: Cache,
    asked: EvaluateSpec,
) -> tuple[ProbeFigures, ...]:
    labels, n_classes = rows.test.labels.numpy(), len(cache.class_names)
    has_balanced = are_unequal(np.bincount(labels).tolist())

    def mean_of(values: npt.NDArray[np.generic]) -> Estimate:
        return bootstrap(
            lambda drawn: float(values[drawn].mean()),
            len(labels),
            n_draws=asked.draws,
            seed=asked.seed,
        )

    def balanced(given: IntArray) -> Estimate:
        return bootstrap(
            lambda drawn: balanced_accuracy(labels[drawn], given[drawn], n_classes),
            len(labels),
            n_draws=asked.draws,
            seed=asked.seed,
        )

    found = []
    for one in map(Classifier, (MAJORITY, *SOLVERS)):
        given, beside = answers.predictions[one], of_first.predictions[one]
        loss = answers.losses.get(one, math.inf)  # infinite with a class that was not fitted
        gained = (given == labels).astype(np.int64) - (beside == labels)
        found.append(
            ProbeFigures(
                solver=one.solver,
                setting=answers.settings.get(one, ""),
                acc=mean_of(given == labels),
                balanced_acc=balanced(given) if has_balanced else None,
                loss=loss if math.isfinite(loss) else None,
                difference=None if answers is of_first else mean_of(gained),
            )
        )
    return tuple(found)


def _curve(
    answers: ProbeAnswers, rows: ProbeRows, per_class: Sequence[int], tries: int
) -> tuple[FewShotFigures, ...]:
    labels = rows.test.labels.numpy()
    points = []
    for solver in SOLVERS:
        for n in per_class:
            each = [answers.predictions[Classifier(solver, n, i)] == labels for i in range(tries)]
            accs = [float(right.mean()) for right in each]
            points.append(FewShotFigures(solver, n, MeanEstimate.of(accs, SHARES)))
    return tuple(points)


def _at_ends(answers: ProbeAnswers, cache: Cache) -> Iterator[str]:
    """Say which best settings are at an end of those that were tried."""
    for one, name in answers.at_ends.items():
        yield (
            f"{one.solver} on {cache.path.stem}: the best {name}, {answers.settings[one][2:]}, is "
            f"at an end of those that probe tries. Others beyond it may be better: featcache "
            f"train-head --solver {one.solver} --{name} takes any"
        )


def _unseen(rows: ProbeRows, names: Sequence[str]) -> str:
    """Say which classes are tested, but were not fitted."""
    unseen = sorted(set(rows.test.labels.tolist()) - set(rows.train.labels.tolist()))
    if not unseen:
        return ""
    n = int(torch.isin(rows.test.labels, torch.tensor(unseen)).sum())
    return (
        f"{counted(n, 'tested image')} are of {counted(len(unseen), 'class')} without a fitted "
        f"image, such as {clipped(names[unseen[0]])!r}: no classifier can name them"
    )
