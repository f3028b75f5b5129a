"""Points in a plane, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featcache.insight.page.axes import (
    WIDTH,
    Mark,
    Scale,
    figure,
    legend,
    picture,
    spanning,
    text,
)
from featcache.insight.page.markup import Content, Html, element

_SIDE = 300
_EDGE = 24


@dataclass(frozen=True)
class Cloud:
    """The points of one class.

    Attributes:
        name: The class.
        points: (x, y).
        mark: How they are drawn; None for those of all classes that have no mark of their own.
    """

    name: Content
    points: Sequence[tuple[float, float]]
    mark: Mark | None


def scatter(
    clouds: Sequence[Cloud], *, x_title: str, y_title: str, caption: Content, alt: str
) -> Html:
    """Draw points with a legend; an axis has no numbers, as its values mean nothing by themselves.

    Args:
        clouds: The points, with at least one in all. What is drawn first lies below.
        x_title: Of the axis.
        y_title: Likewise.
        caption: What stands below.
        alt: What it shows, in a sentence.
    """
    points = [point for cloud in clouds for point in cloud.points]
    x = spanning([x for x, _ in points], _EDGE, WIDTH - 8)
    y = spanning([y for _, y in points], _SIDE - _EDGE, 8)
    frame = f"M{x.start:g} {y.end:g}V{y.start:g}H{x.end:g}"
    middle = (y.start + y.end) / 2
    place = f"translate(14 {middle:g})rotate(-90)"
    shown = picture(
        element("path", d=frame, class_="axis-line"),
        *(_cloud(cloud, x, y) for cloud in clouds),
        text(x_title, (x.start + x.end) / 2, _SIDE - 8, anchor="middle"),
        element("text", y_title, transform=place, text_anchor="middle"),
        alt=alt,
        height=_SIDE,
    )
    key = legend([(cloud.mark, cloud.name) for cloud in clouds], of_dots=True)
    return figure(shown, key, caption=caption)


def _cloud(cloud: Cloud, x: Scale, y: Scale) -> Html:
    """Draw all points of a class as one path: a line of no length has round or square ends."""
    path = "".join(f"M{x(a):.1f} {y(b):.1f}h0" for a, b in cloud.points)
    mark = cloud.mark
    form = "squares" if mark is not None and mark.is_second else "dots"
    colour = "others" if mark is None else mark.stroke
    return element("path", d=path, class_=f"{form} cloud {colour}")
