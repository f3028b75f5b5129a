"""Tables of a page, and lists of facts; a wide table scrolls by itself, not the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from featcache.insight.page.markup import Content, Html, element


def table(columns: Sequence[str], rows: Iterable[Sequence[Content]], *, caption: str) -> Html:
    """Write a table; the first cell of a row is its heading.

    Args:
        columns: Titles; those that begin with "#" are of numbers.
        rows: As many cells each.
        caption: What it is of.
    """
    classes = ["n" if column.startswith("#") else None for column in columns]
    titles = (
        element("th", column.removeprefix("#"), scope="col", class_=kind)
        for column, kind in zip(columns, classes, strict=True)
    )
    head = element("thead", element("tr", *titles))
    body = element("tbody", *(_row(row, classes) for row in rows))
    whole = element("table", element("caption", caption), head, body)
    # What scrolls must be reachable by keys: it has a name and can be focused.
    return element("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)


def _row(row: Sequence[Content], classes: Sequence[str | None]) -> Html:
    first, *others = (
        element("td" if i else "th", cell, class_=kind, scope=None if i else "row")
        for i, (cell, kind) in enumerate(zip(row, classes, strict=True))
    )
    return element("tr", first, *others)


def facts(facts: Mapping[str, Content]) -> Html:
    """Write names with what is said of them; None is left out."""
    pairs = (
        part
        for name, said in facts.items()
        if said is not None
        for part in (element("dt", name), element("dd", said))
    )
    return element("dl", *pairs)


def details(summary: str, *content: Content) -> Html:
    """Write what is folded away until it is asked for, and stands open on paper."""
    return element("details", element("summary", summary), *content)
