"""A row for each name: a bar, or a dot with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featcache.insight.page.axes import (
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    figure,
    picture,
    spanning,
    text,
    tick,
)
from featcache.insight.page.markup import Content, Html, element, joined, shortened, visible

_ROW, _LOWEST = 20, 34
_NAME_WIDTH = 122  # what 18 letters take
_MOST_LETTERS = 18


@dataclass(frozen=True)
class Bar:
    """A row of a figure.

    Attributes:
        name: What it is of.
        value: Its value; None where there is none.
        low: Lower end of its interval, if it has one.
        high: Upper end.
        shown: The value as text.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    shown: str = ""


def bars(rows: Sequence[Bar], *, x_title: str, caption: Content, alt: str) -> Html:
    """Draw bars from 0 to 1, for shares; an interval is a thin line over its bar."""
    x = Scale(0.0, 1.0, _NAME_WIDTH, WIDTH - RIGHT - 34)
    drawn: list[Content] = []
    for i, row in enumerate(rows):
        middle = TOP + _ROW * (i + 0.5)
        if row.value is not None:
            width = max(0.5, x(row.value) - x.start)
            place = {"x": f"{x.start:g}", "y": f"{middle - 6:.1f}"}
            drawn.append(element("rect", **place, width=width, height="12", class_="f0"))
        drawn += [_name(row, middle), _interval(row, x, middle, "whisker"), _value(row, middle)]
    height = TOP + _ROW * len(rows) + _LOWEST
    shown = picture(_bottom(x, height, x_title), *drawn, alt=alt, height=height)
    return figure(shown, caption=caption)


def dots(rows: Sequence[Bar], *, x_title: str, caption: Content, alt: str) -> Html:
    """Draw a dot for each row with its interval, on an axis that begins where they do.

    Args:
        rows: The rows, at least one with a value.
        x_title: Of the axis, with its unit.
        caption: What stands below.
        alt: What it shows, in a sentence.
    """
    known = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
    x = spanning(known, _NAME_WIDTH, WIDTH - RIGHT - 34)
    drawn: list[Content] = []
    for i, row in enumerate(rows):
        middle = TOP + _ROW * (i + 0.5)
        drawn += [_name(row, middle), _interval(row, x, middle, "line s0"), _value(row, middle)]
        if row.value is not None:
            dot = f"M{x(row.value):.1f} {middle:.1f}h.01"
            drawn.append(element("path", d=dot, class_="dots s0"))
    height = TOP + _ROW * len(rows) + _LOWEST
    shown = picture(_bottom(x, height, x_title), *drawn, alt=alt, height=height)
    return figure(shown, caption=caption)


def _name(row: Bar, middle: float) -> Html:
    said = joined(shortened(row.name, _MOST_LETTERS), element("title", visible(row.name)))
    return text(said, _NAME_WIDTH - 6, middle + 4, anchor="end")


def _value(row: Bar, middle: float) -> Html | None:
    return text(row.shown, WIDTH - RIGHT - 28, middle + 4) if row.shown else None


def _interval(row: Bar, x: Scale, middle: float, kind: str) -> Html | None:
    if row.low is None or row.high is None:
        return None
    ends = f"M{x(row.low):.1f} {middle:.1f}H{x(row.high):.1f}"
    caps = "".join(f"M{x(end):.1f} {middle - 3:.1f}v6" for end in (row.low, row.high))
    return element("path", d=ends + caps, class_=kind)


def _bottom(x: Scale, height: float, title: str) -> Html:
    """Draw the axis below the rows, and the lines up from it."""
    base = height - _LOWEST
    ticks = x.ticks(4)
    up = "".join(f"M{x(value):.1f} {base:g}V{TOP}" for value in ticks)
    return joined(
        element("path", d=up, class_="grid-line"),
        element("path", d=f"M{x.start:g} {base:g}H{x.end:g}", class_="axis-line"),
        *(text(tick(value), x(value), base + 13, anchor="middle") for value in ticks),
        text(title, (x.start + x.end) / 2, base + 28, anchor="middle"),
    )
