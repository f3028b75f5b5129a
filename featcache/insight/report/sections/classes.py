"""Which classes a system tells apart: its confusion matrix and its recall of each class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featcache.evaluation.metrics import (
    ClassFigures,
    IntArray,
    class_counts,
    confusion_cells,
    per_class,
)
from featcache.insight.page.bars import Bar, bars
from featcache.insight.page.document import Section
from featcache.insight.page.heat_map import heat_map
from featcache.insight.page.markup import Html, element, joined, name, paragraph
from featcache.insight.page.table import details, table
from featcache.insight.report.material import Material
from featcache.insight.report.systems import ReportedSystem

_MOST_BARS = 20
_MOST_PAIRS = 10
_MOST_CELLS = 200  # classes whose matrix can still be seen


def classes(material: Material) -> Section | None:
    """Write what each detailed system makes of each class."""
    if not material.detailed:
        return None
    parts = [_of_system(system, material) for system in material.detailed]
    left_out = len([s for s in material.systems if s.acc is not None]) - len(parts)
    if left_out:
        said = f"Only the {len(parts)} systems of the highest accuracy are shown."
        parts.insert(0, paragraph(said))
    return Section("classes", "Classes", joined(*parts))


def confusion(system: ReportedSystem, n_classes: int) -> IntArray:
    """Count by label (row) and prediction (column), (K, K), the sum over the seeds."""
    counts = np.zeros((n_classes, n_classes), np.int64)
    for run in system.answered:
        assert run.evaluation is not None
        answers = run.evaluation.answers
        cells = confusion_cells(answers.labels, answers.predictions, n_classes)
        counts[cells[:, 0], cells[:, 1]] += cells[:, 2]
    return counts


def recalls(system: ReportedSystem, n_classes: int) -> npt.NDArray[np.float64]:
    """Give the recall of each class, (S, K), by seed; NaN for a class without an image."""
    found = []
    for run in system.answered:
        assert run.evaluation is not None
        answers = run.evaluation.answers
        right, images, _ = class_counts(answers.labels, answers.predictions, n_classes)
        found.append(np.where(images > 0, right / np.maximum(1, images), np.nan))
    return np.stack(found)


def _of_system(system: ReportedSystem, material: Material) -> Html:
    names = material.class_names
    counts = confusion(system, len(names))
    figures = [_bars(system, material)]
    if len(names) <= _MOST_CELLS:
        figures.insert(0, _matrix(system, counts, material))
    n = len(system.answered)
    return joined(
        element("h3", system.name),
        element("div", *figures, class_="grid"),
        details("Pairs of classes that are confused most", _pairs(counts, material)),
        details("Precision, recall and F1 of each class", _table(system, material))
        if len(names) <= _MOST_CELLS
        else None,
        paragraph(f"Counts are sums over {n} seeds; recalls are means.") if n > 1 else None,
    )


def _matrix(system: ReportedSystem, counts: IntArray, material: Material) -> Html:
    names = material.class_names
    worst = [f"{names[i]} for {names[j]}" for i, j in _confused(counts)[:3]]
    most = f"; most confused: {', '.join(worst)}" if worst else "; nothing is confused"
    return heat_map(
        counts.tolist(),
        names,
        row_title="label",
        column_title="prediction",
        caption=f"Confusion matrix of {system.name}; the stronger the colour, the larger the share "
        f"of its row",
        alt=f"Confusion matrix of {system.name} for {len(names)} classes{most}",
    )


def _confused(counts: IntArray) -> list[tuple[int, int]]:
    """List cells off the diagonal, the largest count first."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: int((wrong > 0).sum())]
    n = len(counts)
    return [(int(cell) // n, int(cell) % n) for cell in order[:_MOST_PAIRS]]


def _pairs(counts: IntArray, material: Material) -> Html:
    names, totals = material.class_names, counts.sum(1)
    rows = [
        (name(names[i]), name(names[j]), f"{counts[i, j]:,}", f"{counts[i, j] / totals[i]:.4f}")
        for i, j in _confused(counts)
    ]
    columns = ["label", "prediction", "#images", "#share of the label"]
    return table(columns, rows, caption="The largest counts off the diagonal")


def _bars(system: ReportedSystem, material: Material) -> Html:
    found = recalls(system, len(material.class_names))
    means = found.mean(0)
    known = [k for k in range(len(means)) if not np.isnan(means[k])]
    chosen, which = known, "each class"
    if len(known) > _MOST_BARS:
        chosen = sorted(known, key=lambda k: means[k])[:_MOST_BARS]
        which = f"the {_MOST_BARS} classes with the lowest, of {len(known)}"
    several = len(found) > 1
    rows = [
        Bar(
            material.class_names[k],
            float(means[k]),
            float(found[:, k].min()) if several else None,
            float(found[:, k].max()) if several else None,
            f"{means[k]:.3f}",
        )
        for k in chosen
    ]
    order = sorted(known, key=lambda k: means[k])
    ends = [f"{material.class_names[k]} {means[k]:.3f}" for k in (order[0], order[-1])]
    span = "; lines reach from the lowest to the highest seed" if several else ""
    return bars(
        rows,
        x_title="recall (share of the images of a class that is right)",
        caption=f"Recall of {system.name}, of {which}{span}",
        alt=f"Recall of {system.name} by class, from {ends[0]} to {ends[1]}",
    )


def _table(system: ReportedSystem, material: Material) -> Html:
    """Write the table of classes; of several seeds, of all their answers together."""
    labels, predictions = (
        np.concatenate(
            [getattr(r.evaluation.answers, part) for r in system.answered if r.evaluation]
        )
        for part in ("labels", "predictions")
    )
    figures: list[ClassFigures] = per_class(labels, predictions, material.class_names)
    rows = [
        (
            name(one.name),
            f"{one.n // len(system.answered):,}",
            f"{one.precision:.4f}",
            f"{one.recall:.4f}",
            f"{one.f1:.4f}",
        )
        for one in figures
    ]
    columns = ["class", "#images", "#precision", "#recall", "#F1"]
    return table(columns, rows, caption=f"Figures of each class by {system.name}")
