"""Pictures in a grid: each alone, or beside another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from featcache.insight.page.markup import Content, Html, element


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        source: A data URI ("data:image/..."); empty where the image is gone.
        alt: What it shows, for those who do not see it.
        caption: What stands below it.
    """

    source: str
    alt: str
    caption: Content

    def __post_init__(self) -> None:
        if self.source and not self.source.startswith("data:image/"):
            raise ValueError("a page fetches nothing: a picture is a data URI")


def pictures(items: Iterable[Picture], *, label: str) -> Html:
    """Write pictures in a grid.

    Args:
        items: The pictures.
        label: What they are, for those who do not see them.
    """
    cells = (element("li", _figure(one)) for one in items)
    return element("ul", *cells, class_="pictures", aria_label=label)


def picture_rows(rows: Iterable[tuple[Sequence[Picture], Content]], *, label: str) -> Html:
    """Write groups of pictures, those of a group side by side, with a text below each group.

    Args:
        rows: The pictures of each group and its text.
        label: What they are, for those who do not see them.
    """
    cells = (
        element("li", element("div", *map(_figure, row), class_="side"), text) for row, text in rows
    )
    return element("ul", *cells, class_="pictures pairs", aria_label=label)


def _figure(picture: Picture) -> Html:
    shown = (
        element("img", src=picture.source, alt=picture.alt)
        if picture.source
        else element("p", "no image", class_="muted")
    )
    return element("figure", shown, element("figcaption", picture.caption))
