"""Learning curves: losses and accuracies over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.heads.history import History, points_of
from featcache.insight.page.axes import Mark
from featcache.insight.page.document import Section
from featcache.insight.page.lines import Line, lines
from featcache.insight.page.markup import Html, element, joined, paragraph
from featcache.insight.report.material import Material
from featcache.insight.report.systems import ReportedSystem

_MOST_POINTS = 100  # of a line; a page is not the place for thousands of epochs
_LOSSES = (("train_loss", "training"), ("val_loss", "validation"))


def curves(material: Material) -> Section | None:
    """Draw the losses of each detailed system, and the validation accuracies of all of them."""
    chosen = list(material.detailed or material.systems[:1])
    trained = [system for system in chosen if _histories(system)]
    if not trained:
        solver = material.systems[0].head.solver.solver
        said = f"The heads were found without epochs (solver {solver}), so there are no curves."
        is_known = any(run.trained is not None for s in chosen for run in s.runs)
        return Section("curves", "Learning curves", paragraph(said)) if is_known else None
    figures = [figure for system in trained if (figure := _losses(system)) is not None]
    accuracy = _accuracies(trained)
    grid = element("div", *figures, accuracy, class_="grid")
    return Section("curves", "Learning curves", joined(grid))


def _histories(system: ReportedSystem) -> list[History]:
    return [run.trained.history for run in system.runs if run.trained and run.trained.history]


def _losses(system: ReportedSystem) -> Html | None:
    drawn = [
        Line(told, points, Mark(i, is_dashed=i == 0))
        for i, (name, told) in enumerate(_LOSSES)
        for history in _histories(system)
        if (points := _points(history, name))
    ]
    if not drawn:
        return None
    last = _histories(system)[0][-1]
    ends = ", ".join(f"{told} {last[name]:.3f}" for name, told in _LOSSES if name in last)
    n = len(_histories(system))
    seeds = f"; a line for each of {n} seeds" if n > 1 else ""
    return lines(
        drawn,
        x_title="epoch",
        y_title="loss (cross-entropy)",
        caption=f"{system.name}: losses{seeds}",
        alt=f"Losses of {system.name} over {len(_histories(system)[0])} epochs; at the end: {ends}",
    )


def _accuracies(systems: Sequence[ReportedSystem]) -> Html | None:
    drawn = [
        # One line may lie on another: where that is dashed, both are seen.
        Line(system.name, points, Mark(i, is_dashed=i % 2 == 1))
        for i, system in enumerate(systems)
        for history in _histories(system)
        if (points := _points(history, "val_acc"))
    ]
    if not drawn:
        return None
    ends = "; ".join(f"{one.name} {one.points[-1][1]:.3f}" for one in drawn[:20])
    return lines(
        drawn,
        x_title="epoch",
        y_title="validation accuracy",
        caption="Share of the validation images that is right",
        alt=f"Validation accuracy over the epochs; at the end: {ends}",
    )


def _points(history: History, name: str) -> list[tuple[float, float]]:
    """Take the points of a line, of many epochs every few and the last."""
    points = points_of(history, name)
    step = -(-len(points) // _MOST_POINTS)
    return points if step <= 1 else [*points[:-1:step], points[-1]]
