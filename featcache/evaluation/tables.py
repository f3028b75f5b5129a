"""Tables that an evaluation leaves in a run's folder, as CSV: written block by block."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from featcache.evaluation.metrics import ClassFigures, IntArray
from featcache.heads.predictions import Outputs
from featcache.store import replace_file

MOST_PROBABILITIES = 1000
N_MOST_PROBABLE = 10


def write_predictions(path: Path, outputs: Outputs) -> None:
    """Write id, label, prediction and probabilities of each row.

    A probability per class, or above 1,000 classes that of the label and the ten most probable
    classes with theirs.
    """
    if len(outputs.head.class_names) <= MOST_PROBABILITIES:
        titles = [f"p({name})" for name in outputs.head.class_names]
        shown = _all_probabilities
    else:
        ranks = range(1, N_MOST_PROBABLE + 1)
        titles = ["p(label)", *(t for i in ranks for t in (f"class {i}", f"p(class {i})"))]
        shown = _most_probable

    _write(
        path,
        ["id", "label", "prediction", *titles],
        (row for part in outputs.row_blocks() for row in _prediction_rows(outputs, part, shown)),
    )


def _prediction_rows(
    outputs: Outputs, part: slice, shown: Callable[[Outputs, slice], Iterable[list[str]]]
) -> Iterator[list[str]]:
    names = outputs.head.class_names
    labels, predictions = outputs.labels[part].tolist(), outputs.predictions[part].tolist()
    rows = zip(outputs.ids[part], labels, predictions, shown(outputs, part), strict=True)
    for image_id, label, prediction, cells in rows:
        yield [image_id, names[label], names[prediction], *cells]


def _all_probabilities(outputs: Outputs, part: slice) -> Iterator[list[str]]:
    for row in outputs.probabilities(part):
        yield [f"{p:.9g}" for p in row]


def _most_probable(outputs: Outputs, part: slice) -> Iterator[list[str]]:
    names, probabilities = outputs.head.class_names, outputs.probabilities(part)
    found = np.sort(np.argpartition(-probabilities, N_MOST_PROBABLE)[:, :N_MOST_PROBABLE])
    own = np.take_along_axis(probabilities, outputs.labels[part, None], axis=1)[:, 0]
    theirs = np.take_along_axis(probabilities, found, axis=1)
    order = np.argsort(-theirs, axis=1, kind="stable")  # of two alike, the lower number first
    for i, ranked in enumerate(order):
        cells = [f"{own[i]:.9g}"]
        for k in ranked:
            cells += [names[found[i, k]], f"{theirs[i, k]:.9g}"]
        yield cells


def write_classes(path: Path, classes: Sequence[ClassFigures]) -> None:
    """Write the per-class table."""
    rows = ([c.name, str(c.n), repr(c.precision), repr(c.recall), repr(c.f1)] for c in classes)
    _write(path, ["class", "images", "precision", "recall", "f1"], rows)


def write_confusion(path: Path, cells: IntArray, names: Sequence[str]) -> None:
    """Write label, prediction and count of each cell of the confusion matrix that is not 0."""
    rows = ([names[label], names[given], str(n)] for label, given, n in cells.tolist())
    _write(path, ["label", "prediction", "images"], rows)


def _write(path: Path, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow(titles)
        writer.writerows(rows)
        text.detach()  # flushed; the file is closed by whoever opened it

    replace_file(path, write)
