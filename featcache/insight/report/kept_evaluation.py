"""What `eval` left in a run's folder, read again: its figures, and its answer for each image."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.evaluation.metrics import Estimate, IntArray
from featcache.evaluation.tables import MOST_PROBABILITIES
from featcache.heads.head_file import HEAD_FILE
from featcache.heads.trained_head import TrainedHead
from featcache.insight.report.drawn import Drawn

_CLOSE = 1e-9


@dataclass(frozen=True, eq=False)
class KeptAnswers:
    """What a head says of N images.

    Attributes:
        ids: Of the images.
        labels: (N,) their classes.
        predictions: (N,) the most probable class of each.
        confidences: (N,) its probability.
    """

    ids: Sequence[str]
    labels: IntArray
    predictions: IntArray
    confidences: npt.NDArray[np.float64]

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """(N,) which are right."""
        right: npt.NDArray[np.bool_] = self.labels == self.predictions
        return right


@dataclass(frozen=True, eq=False)
class KeptEvaluation:
    """An evaluation of a head on a split of its own cache.

    Attributes:
        split: The split.
        acc: Share of right predictions.
        loss: Mean cross-entropy; None if the head's probabilities mean nothing.
        macro_f1: F1, averaged over the classes.
        balanced_acc: Recall, averaged over the classes; None where that is the accuracy.
        calibration_error: Expected calibration error; None as `loss`.
        remarks: What the figures do not say by themselves.
        answers: The answer for each image.
    """

    split: str
    acc: Estimate
    loss: Estimate | None
    macro_f1: Estimate
    balanced_acc: Estimate | None
    calibration_error: float | None
    remarks: tuple[str, ...]
    answers: KeptAnswers


def kept_evaluation(
    run: Path, head: TrainedHead, split: str, drawn: Drawn
) -> KeptEvaluation | None:
    """Read the evaluation of a run's head; None if there is none, or not such a one.

    It is of this head if its files are newer and agree with each other.

    Args:
        run: The run's folder.
        head: Its head.
        split: The split.
        drawn: How its intervals must have been drawn.
    """
    file, table = run / f"eval-{split}.json", run / f"predictions-{split}.csv"
    try:
        written = min(file.stat().st_mtime_ns, table.stat().st_mtime_ns)
        if written < (run / HEAD_FILE).stat().st_mtime_ns:
            return None
        said = json.loads(file.read_bytes())
        if not drawn.fits(said.get("draws"), said.get("seed")):
            return None
        return _read(said, _answers(table, head.class_names), split)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error):
        return None


def _read(said: Mapping[str, Any], answers: KeptAnswers, split: str) -> KeptEvaluation:
    acc = _estimate(said["acc"])
    loss, balanced, error = said["loss"], said["balanced_acc"], said["calibration_error"]
    if len(answers.ids) != said["n_images"] or said["split"] != split:
        raise ValueError("a table of other images")
    if abs(float(answers.is_right.mean()) - acc.value) > _CLOSE:
        raise ValueError("a table of other answers")
    return KeptEvaluation(
        split=split,
        acc=acc,
        loss=None if loss is None else _estimate(loss),
        macro_f1=_estimate(said["macro_f1"]),
        balanced_acc=None if balanced is None else _estimate(balanced),
        calibration_error=None if error is None else float(error),
        remarks=tuple(map(str, said["remarks"])),
        answers=answers,
    )


def _estimate(said: Mapping[str, Any]) -> Estimate:
    estimate = Estimate(*(float(said[name]) for name in ("value", "low", "high")))
    if not all(map(math.isfinite, (estimate.value, estimate.low, estimate.high))):
        raise ValueError("a figure that is no number")
    return estimate


def _answers(table: Path, names: Sequence[str]) -> KeptAnswers:
    """Read the table that `eval` writes; of the probabilities, that of the prediction alone."""
    number_of = {name: k for k, name in enumerate(names)}
    if len(number_of) < len(names):
        raise ValueError("two classes of one name")
    has_all = len(names) <= MOST_PROBABILITIES
    ids, labels, predictions, confidences = [], [], [], []
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        for image_id, label, prediction, *cells in rows:
            given = number_of[prediction]
            ids.append(image_id)
            labels.append(number_of[label])
            predictions.append(given)
            # Above 1,000 classes: that of the label, then "class 1" and its probability.
            confidences.append(float(cells[given if has_all else 2]))
    return KeptAnswers(ids, np.array(labels), np.array(predictions), np.array(confidences))
