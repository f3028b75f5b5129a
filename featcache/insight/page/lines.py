"""Lines over a number, such as losses over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featcache.insight.page.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    N_MARKS,
    RIGHT,
    TOP,
    WIDTH,
    Mark,
    Scale,
    axes,
    figure,
    legend,
    picture,
    spanning,
)
from featcache.insight.page.markup import Content, Html, element

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        name: What it is.
        points: (x, y), by ascending x.
        mark: How it is drawn.
    """

    name: Content
    points: Points
    mark: Mark


def lines(
    series: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    caption: Content,
    alt: str,
    limits: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> Html:
    """Draw lines with axes and a legend.

    Args:
        series: The lines, with at least one point in all; of more than `N_MARKS`, some look alike.
        x_title: Of the axis, with its unit.
        y_title: Likewise.
        caption: What stands below.
        alt: What it shows, in a sentence.
        limits: Of both axes; None is where the points are.
        diagonal: Whether to draw where y is x.
    """
    points = [point for one in series for point in one.points]
    x_ends, y_ends = (LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)
    if limits is None:
        x = spanning([x for x, _ in points], *x_ends, margin=0.02)
        y = spanning([y for _, y in points], *y_ends)
    else:
        x, y = Scale(*limits, *x_ends), Scale(*limits, *y_ends)
    ticks = x.ticks()
    if all(float(value).is_integer() for value, _ in points):
        ticks = [value for value in ticks if value.is_integer()]
    drawn = [_line(one, x, y) for one in series]
    rule = f"M{x.start:g} {y.start:g}L{x.end:g} {y.end:g}"
    shown = picture(
        axes(x, y, x_title=x_title, y_title=y_title, x_ticks=ticks),
        element("path", d=rule, class_="rule") if diagonal else None,
        *drawn,
        alt=alt,
    )
    names = {one.name: one.mark for one in series}
    key = legend([(mark, said) for said, mark in names.items()][:N_MARKS])
    return figure(shown, key if len(names) > 1 else None, caption=caption)


def _line(line: Line, x: Scale, y: Scale) -> Html | None:
    if not line.points:
        return None
    places = [f"{x(a):.1f} {y(b):.1f}" for a, b in line.points]
    # A line of one point has no length: with round ends it is a dot.
    path = "M" + "L".join(places) if len(places) > 1 else f"M{places[0]}h.01"
    kinds = [line.mark.stroke, "line" if len(places) > 1 else "dots"]
    if line.mark.is_dashed or line.mark.is_second:
        kinds.append("dashed")
    return element("path", d=path, class_=" ".join(kinds))
