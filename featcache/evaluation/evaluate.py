"""What a head is worth: figures with intervals, and predictions."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.config import EvaluateSpec, ExtractSpec, RunSpec
from featcache.core.arguments import place
from featcache.core.paths import portable
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.evaluation.figures_html import evaluation_html
from featcache.evaluation.metrics import (
    ClassFigures,
    Estimate,
    IntArray,
    are_unequal,
    auroc,
    balanced_accuracy,
    bootstrap,
    calibration_error,
    confusion_cells,
    macro_f1,
    per_class,
)
from featcache.evaluation.remarks import majority_remark
from featcache.evaluation.tables import write_classes, write_confusion, write_predictions
from featcache.heads.predictions import Outputs, outputs_of
from featcache.heads.runs import find_run
from featcache.store import replace_file

TOP_K = 5
SHOWN_CLASSES = 100


@dataclass(frozen=True)
class Evaluation:
    """How good a head is on one split.

    Attributes:
        run: Folder of the head.
        cache: The cache whose features it was given.
        split: "test", "val", "train", or another split of the cache.
        n_images: Images of it that could be read.
        n_views: Views of each image, of whose probabilities the mean was taken; 1 is the plain one.
        acc: Share of right predictions, as the notebook's test_acc.
        loss: Mean cross-entropy, as the notebook's test_loss; None if the head's scores have no
            temperature, so that its probabilities mean nothing.
        macro_f1: F1, averaged over the classes.
        balanced_acc: Recall, averaged over the classes that have images; None where they have about
            as many each, as it is the accuracy then.
        top_k: Share of images whose class is among the k most probable; None where that says next
            to nothing, as all classes but one are.
        k: That k: 5.
        train_acc: Share of the images that it was trained on, 10,000 of them at most, that are
            right; None if those are the split, or the neighbours that the head asks, or if views
            were averaged.
        n_train_images: How many these are; None where `train_acc` is.
        auroc: One-vs-rest area under the ROC curve, averaged over the classes; None if undefined.
        calibration_error: Expected calibration error over 15 bins; None likewise.
        classes: The per-class table.
        confusion: (K, K) counts by label (row) and prediction (column); None above 100 classes.
        predictions: File with id, label, prediction and a probability per class; above 1,000
            classes that of the label and the ten most probable classes.
        classes_file: File with the per-class table.
        confusion_file: File with the cells of the confusion matrix that are not 0.
        remarks: That the head is no better than the largest class, if so.
        draws: Bootstrap samples of the intervals.
        seed: What seeded them.
    """

    run: Path
    cache: Path
    split: str
    n_images: int
    n_views: int
    acc: Estimate
    loss: Estimate | None
    macro_f1: Estimate
    balanced_acc: Estimate | None
    top_k: Estimate | None
    k: int
    train_acc: float | None
    n_train_images: int | None
    auroc: float | None
    calibration_error: float | None
    classes: Sequence[ClassFigures]
    confusion: Sequence[Sequence[int]] | None
    predictions: Path
    classes_file: Path
    confusion_file: Path
    remarks: tuple[str, ...]
    draws: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Give the figures by name; above 100 classes their table is None, and in its file alone.

        A matrix of 3,000 classes would be 81 MB of JSON.
        """
        figures = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("acc", "loss", "macro_f1", "balanced_acc", "top_k"):
            figures[name] = asdict(figures[name]) if figures[name] is not None else None
        are_shown = len(self.classes) <= SHOWN_CLASSES
        figures["classes"] = [asdict(c) for c in self.classes] if are_shown else None
        return figures

    def _repr_html_(self) -> str:
        return evaluation_html(self)


@starting(*ANY_START)
def evaluate(
    run: str | os.PathLike[str] | None = None,
    *,
    split: str | None = EvaluateSpec.split,
    cache: str | os.PathLike[str] | None = None,
    draws: int = EvaluateSpec.draws,
    seed: int = EvaluateSpec.seed,
    tta: bool = EvaluateSpec.tta,
    device: str = ExtractSpec.device,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_note: NoteCallback | None = None,
) -> Evaluation:
    """Evaluate a head on a split of its cache.

    Writes `eval-<split>.json`, and as CSV `predictions-<split>`, `classes-<split>` and
    `confusion-<split>`, into the run's folder; with `tta` the names end in `-tta`. The other
    arguments are those of `featcache.config.EvaluateSpec` and `ExtractSpec`.

    Args:
        run: Folder of a run, or part of its name; None is the newest, or
            the one that its sweep chose.
        split: "test", "val" or "train", as the head's training divided them; None is "test", or
            "val" where the cache has no test split.
        cache: The cache to use; None is the one of the training, wherever below `cache_dir` it is.
            One of other images is taken too: its classes are matched by name, and its name is part
            of those of the files. So is one of the same images with other views.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        CacheMissingError: If there is no such run or cache.
        MismatchError: If its features are made otherwise than those that the head was trained on.
        CorruptError: If the head or the cache is damaged.
        UsageError: If there is no such split.
    """
    note = on_note or silent
    asked = EvaluateSpec(split=split, draws=draws, seed=seed, tta=tta)
    outputs = outputs_of(
        find_run(run, runs_dir=runs_dir),
        split=asked.split,
        cache=cache,
        device=device,
        cache_dir=place("--cache-dir", cache_dir),
        on_note=note,
        tta=asked.tta,
    )
    evaluation = evaluation_of(outputs, asked)
    for remark in evaluation.remarks:
        note(remark)
    return evaluation


def evaluation_of(outputs: Outputs, asked: EvaluateSpec) -> Evaluation:
    """Compute and write the figures of a head that was run over a split."""
    path, split, title = outputs.run, outputs.split, outputs.title
    labels, predictions = outputs.labels, outputs.predictions
    names = outputs.head.class_names
    trained_on = outputs.trained_on

    def estimate(statistic: Callable[[IntArray], float]) -> Estimate:
        return bootstrap(statistic, len(labels), n_draws=asked.draws, seed=asked.seed)

    def of(per_row: npt.NDArray[np.generic]) -> Estimate:
        return estimate(lambda rows: float(per_row[rows].mean()))

    acc, classes = of(labels == predictions), per_class(labels, predictions, names)
    shares = {k: figures.n / len(labels) for k, figures in enumerate(classes)}
    remark = majority_remark(f"{split}_acc", acc, len(labels), shares, names)
    of_other = () if outputs.other is None else outputs.other.remarks(split)
    cells = confusion_cells(labels, predictions, len(names))
    evaluation = Evaluation(
        run=path,
        cache=outputs.cache.path,
        split=split,
        n_images=len(labels),
        n_views=outputs.n_views,
        acc=acc,
        loss=of(outputs.losses) if outputs.head.is_calibrated else None,
        macro_f1=estimate(lambda rows: macro_f1(labels[rows], predictions[rows], len(names))),
        balanced_acc=estimate(
            lambda rows: balanced_accuracy(labels[rows], predictions[rows], len(names))
        )
        if are_unequal([figures.n for figures in classes])
        else None,
        top_k=of(outputs.ranks < TOP_K) if len(names) > TOP_K + 1 else None,
        k=TOP_K,
        train_acc=float(trained_on.mean()) if len(trained_on) else None,
        n_train_images=len(trained_on) or None,
        auroc=_mean_auroc(outputs),
        calibration_error=calibration_error(labels == predictions, outputs.confidences)
        if outputs.head.is_calibrated
        else None,
        classes=classes,
        confusion=_matrix(cells, len(names)) if len(names) <= SHOWN_CLASSES else None,
        predictions=path / f"predictions-{title}.csv",
        classes_file=path / f"classes-{title}.csv",
        confusion_file=path / f"confusion-{title}.csv",
        remarks=(*of_other, *((remark,) if remark else ())),
        draws=asked.draws,
        seed=asked.seed,
    )
    write_predictions(evaluation.predictions, outputs)
    write_classes(evaluation.classes_file, evaluation.classes)
    write_confusion(evaluation.confusion_file, cells, names)
    figures = json.dumps(evaluation.as_json(), indent=2, default=portable) + "\n"
    replace_file(path / f"eval-{title}.json", figures.encode())
    return evaluation


def _mean_auroc(outputs: Outputs) -> float | None:
    """Average the area under the ROC curve over the classes that have images; None if just one."""
    labels = outputs.labels
    if len(np.unique(labels)) < 2:
        return None
    areas = []
    for part in outputs.class_blocks():
        by_class = np.ascontiguousarray(outputs.probabilities(classes=part).T)
        for k, scores in enumerate(by_class, start=part.start):
            if (labels == k).any():
                areas.append(auroc(labels == k, scores))
    return statistics.fmean(areas)


def _matrix(cells: IntArray, n_classes: int) -> list[list[int]]:
    matrix = np.zeros((n_classes, n_classes), np.int64)
    matrix[cells[:, 0], cells[:, 1]] = cells[:, 2]
    rows: list[list[int]] = matrix.tolist()
    return rows
