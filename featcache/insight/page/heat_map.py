"""A matrix of shares as a field of cells, the darker the larger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from featcache.evaluation.metrics import row_shares
from featcache.insight.page.axes import WIDTH, figure, picture, text
from featcache.insight.page.markup import Content, Html, element, joined, shortened, visible

_MOST_WITH_NUMBERS = 20
_EDGE = 4
_MOST_LETTERS, _LETTER = 12, 5.3  # of a name; pixels of a letter, at most
_TITLE = 22  # pixels that a title takes
_SHADES = 20


def heat_map(
    counts: Sequence[Sequence[int]],
    names: Sequence[str],
    *,
    row_title: str,
    column_title: str,
    caption: Content,
    alt: str,
) -> Html:
    """Draw counts as shares of their row; up to 20 classes with their names and numbers.

    Args:
        counts: (K, K).
        names: Of the K classes.
        row_title: What the rows are by.
        column_title: What the columns are by.
        caption: What stands below.
        alt: What it shows, in a sentence.
    """
    n = len(names)
    is_named = n <= _MOST_WITH_NUMBERS
    longest = min(_MOST_LETTERS, max(len(visible(name)) for name in names))
    edge = _TITLE + _LETTER * longest if is_named else _TITLE
    side = (WIDTH - edge - _EDGE) / n
    shares = row_shares(counts)
    drawn: list[Content] = [_cells(shares, edge, side)]
    if is_named:
        places = [edge + (i + 0.5) * side for i in range(n)]
        drawn += [
            _number(counts[i][j], shares[i][j], x, y, side)
            for i, y in enumerate(places)
            for j, x in enumerate(places)
        ]
        drawn += [_of_row(name, edge, y) for name, y in zip(names, places, strict=True)]
        drawn += [_of_column(name, x, edge) for name, x in zip(names, places, strict=True)]
    end = edge + side * n
    frame = element("path", d=f"M{edge:g} {edge:g}V{end:g}H{end:g}V{edge:g}Z", class_="axis-line")
    middle = (edge + end) / 2
    turned = element(
        "text", row_title, transform=f"translate(11 {middle:g})rotate(-90)", text_anchor="middle"
    )
    top = text(column_title, middle, 11, anchor="middle")
    shown = picture(*drawn, frame, turned, top, alt=alt, height=end + _EDGE)
    return figure(shown, caption=caption)


def _cells(shares: Sequence[Sequence[float]], edge: float, side: float) -> Html:
    """Draw the cells that are not 0, those of one shade as one path: 10,000 of them are small."""
    by_shade: dict[float, list[str]] = defaultdict(list)
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if share > 0:
                shade = max(1, round(_shade(share) * _SHADES)) / _SHADES
                place = f"M{edge + j * side:.1f} {edge + i * side:.1f}"
                by_shade[shade].append(f"{place}h{side:.1f}v{side:.1f}h-{side:.1f}z")
    paths = (
        element("path", d="".join(cells), class_="heat", fill_opacity=shade)
        for shade, cells in sorted(by_shade.items())
    )
    return joined(*paths)


def _shade(share: float) -> float:
    """Leave out the greys on which no text can be read: half and more is clearly darker."""
    return 0.45 * share / 0.5 if share < 0.5 else 0.75 + 0.25 * (share - 0.5) / 0.5


def _number(count: int, share: float, x: float, y: float, side: float) -> Html | None:
    if not count:
        return None
    kind = "on-heat" if share >= 0.5 else ""
    kind += " small" if side < 20 or count > 999 else ""
    return text(str(count), x, y + 4, anchor="middle", kind=kind.strip())


def _of_row(name: str, x: float, y: float) -> Html:
    return text(_shown(name), x - 4, y + 4, anchor="end", kind="small")


def _of_column(name: str, x: float, y: float) -> Html:
    place = f"translate({x + 3:.1f} {y - 4:.1f})rotate(-90)"
    return element("text", _shown(name), transform=place, class_="small")


def _shown(name: str) -> Html:
    return joined(shortened(name, _MOST_LETTERS), element("title", visible(name)))
