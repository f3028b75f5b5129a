"""Whether probabilities are what they say: of images with 80%, are 80% right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featcache.evaluation.metrics import N_BINS
from featcache.insight.page.axes import Mark
from featcache.insight.page.document import Section
from featcache.insight.page.lines import Line, lines
from featcache.insight.page.markup import Html, element, joined, paragraph
from featcache.insight.page.table import details, table
from featcache.insight.report.material import Material
from featcache.insight.report.systems import ReportedSystem


@dataclass(frozen=True)
class Bin:
    """Images whose probability lies within a fifteenth of 0 to 1.

    Attributes:
        n: How many, over all seeds.
        confidence: Their mean probability.
        acc: Share of them that is right.
    """

    n: int
    confidence: float
    acc: float


def bins_of(system: ReportedSystem) -> list[Bin]:
    """Part the answers of a system by their probabilities; empty bins are left out."""
    answers = [run.evaluation.answers for run in system.answered if run.evaluation is not None]
    confidences = np.concatenate([one.confidences for one in answers])
    right = np.concatenate([one.is_right for one in answers])
    number = np.minimum((confidences * N_BINS).astype(np.int64), N_BINS - 1)
    found = []
    for i in range(N_BINS):
        own = number == i
        if own.any():
            found.append(
                Bin(int(own.sum()), float(confidences[own].mean()), float(right[own].mean()))
            )
    return found


def reliability(material: Material) -> Section | None:
    """Draw the reliability of each detailed system whose probabilities mean something."""
    if not material.detailed:
        return None
    calibrated = [s for s in material.detailed if s.calibration_error is not None]
    if not calibrated:
        said = "The scores of these heads have no temperature, so they are no probabilities."
        return Section("reliability", "Reliability of the probabilities", paragraph(said))
    parts = [_figure(system) for system in calibrated]
    said = (
        "On the dashed line, images that are given a probability of 80% are right in 80% of the "
        "cases. Below it, a head is surer than it may be. The expected calibration error is the "
        "mean distance to that line, each bin counted by its images."
    )
    tables = [details(f"Bins of {system.name}", _table(system)) for system in calibrated]
    grid = element("div", *parts, class_="grid")
    return Section(
        "reliability", "Reliability of the probabilities", joined(paragraph(said), grid, *tables)
    )


def _figure(system: ReportedSystem) -> Html:
    points = [(one.confidence, one.acc) for one in bins_of(system)]
    error = system.calibration_error
    surer = sum(acc < confidence for confidence, acc in points)
    return lines(
        [Line(system.name, points, Mark(0))],
        x_title="probability of the prediction",
        y_title="share that is right",
        caption=f"{system.name}: expected calibration error {error:.4f}",
        alt=f"Reliability of {system.name}: below the diagonal, so too sure, in {surer} of "
        f"{len(points)} bins; expected calibration error {error:.4f}",
        limits=(0.0, 1.0),
        diagonal=True,
    )


def _table(system: ReportedSystem) -> Html:
    rows = [(f"{one.confidence:.4f}", f"{one.acc:.4f}", f"{one.n:,}") for one in bins_of(system)]
    columns = ["#mean probability", "#share that is right", "#images"]
    return table(columns, rows, caption=f"Reliability of {system.name}, by bins of 1/{N_BINS}")
