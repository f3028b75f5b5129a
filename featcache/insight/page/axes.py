"""What figures share: the picture with its text for the blind, scales, axes, a legend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from featcache.insight.page.markup import Content, Html, element, joined
from featcache.insight.page.style import N_COLOURS

WIDTH, HEIGHT = 360, 240
"""Of a figure, in pixels of a phone; on a wide page it grows a little."""
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 38
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Scale:
    """Takes values to pixels.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: In pixels.
        end: In pixels.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Give the pixel of a value."""
        share = (value - self.low) / ((self.high - self.low) or 1)
        return self.start + share * (self.end - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """List about `n` round values within."""
        width = (self.high - self.low) or 1
        power = 10.0 ** math.floor(math.log10(width / n))
        step = next(s * power for s in _STEPS if s * power >= width / n)
        first = math.ceil(self.low / step - 1e-9)
        values = (round(i * step, 12) for i in itertools.count(first))
        return list(itertools.takewhile(lambda v: v <= self.high + step * 1e-9, values))


def spanning(values: Sequence[float], start: float, end: float, *, margin: float = 0.05) -> Scale:
    """Make a scale on which all values have room.

    Args:
        values: At least one.
        start: Pixel of the low end.
        end: Pixel of the high end.
        margin: Share of their width that is left at both ends.
    """
    low, high = min(values), max(values)
    room = margin * ((high - low) or abs(high) or 1)
    return Scale(low - room, high + room, start, end)


def picture(*content: Content, alt: str, height: float = HEIGHT, width: float = WIDTH) -> Html:
    """Write an inline SVG.

    Args:
        content: Its elements.
        alt: What it shows, in a sentence, for those who do not see it.
        height: In pixels.
        width: In pixels.
    """
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *content, viewBox=box, role="img", aria_label=alt)


def figure(*content: Content, caption: Content) -> Html:
    """Write a figure with what stands below it."""
    return element("figure", *content, element("figcaption", caption))


def axes(x: Scale, y: Scale, *, x_title: str, y_title: str, x_ticks: Sequence[float]) -> Html:
    """Write both axes with their ticks, titles and the lines across."""
    lines, texts = [], []
    for value in y.ticks():
        lines.append(f"M{x.start:g} {y(value):.1f}H{x.end:g}")
        texts.append(text(tick(value), x.start - 5, y(value) + 4, anchor="end"))
    texts += [text(tick(value), x(value), y.start + 14, anchor="middle") for value in x_ticks]
    middle = (y.start + y.end) / 2
    turned = element(
        "text", y_title, transform=f"translate(11 {middle:g})rotate(-90)", text_anchor="middle"
    )
    return joined(
        element("path", d="".join(lines), class_="grid-line"),
        element("path", d=f"M{x.start:g} {y.start:g}H{x.end:g}", class_="axis-line"),
        *texts,
        turned,
        text(x_title, (x.start + x.end) / 2, y.start + 31, anchor="middle"),
    )


def text(said: Content, x: float, y: float, *, anchor: str | None = None, kind: str = "") -> Html:
    """Write a text at a place: its left end, or as `anchor` says ("middle", "end")."""
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}"}
    return element("text", said, **place, text_anchor=anchor, class_=kind or None)


def tick(value: float) -> str:
    """Write a value of an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Mark:
    """How a series is drawn: those of one colour differ in their form.

    Attributes:
        i: Its number among the series of a figure, from 0.
        is_dashed: Whether its lines are dashed in any case.
    """

    i: int
    is_dashed: bool = False

    @property
    def stroke(self) -> str:
        """Class of its lines."""
        return f"s{self.i % N_COLOURS}"

    @property
    def fill(self) -> str:
        """Class of its areas."""
        return f"f{self.i % N_COLOURS}"

    @property
    def is_second(self) -> bool:
        """Whether its colour is another's too, so that its lines are dashed and its dots square."""
        return self.i // N_COLOURS % 2 == 1


N_MARKS = 2 * N_COLOURS
"""So many series can be told apart."""


def legend(names: Sequence[tuple[Mark | None, Content]], *, of_dots: bool = False) -> Html:
    """Write what each mark stands for; None is the mark of all others.

    Args:
        names: Marks and names.
        of_dots: Whether they mark dots, or else lines.
    """
    items = (element("li", _sample(mark, of_dots), " ", said) for mark, said in names)
    return element("ul", *items, class_="legend")


def _sample(mark: Mark | None, of_dots: bool) -> Html:
    kind = (mark.stroke if mark else "others") + " " + _form(mark, of_dots)
    path = element("path", d="M10 4h.01" if of_dots else "M1 4h18", class_=kind)
    return element("svg", path, viewBox="0 0 20 8", aria_hidden="true")


def _form(mark: Mark | None, of_dots: bool) -> str:
    is_second = mark is not None and mark.is_second
    if of_dots:
        return "squares" if is_second else "dots"
    return "line dashed" if is_second or (mark is not None and mark.is_dashed) else "line"
