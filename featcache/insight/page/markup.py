"""Elements of a page; text that comes from outside is escaped, always."""

from __future__ import annotations

import html

_VOID = ("br", "img", "meta")


class Html(str):
    """Markup as it stands in a page; any other text is escaped before it does."""

    __slots__ = ()


Content = Html | str | int | None
"""What an element holds; None is left out."""


def visible(text: object) -> str:
    r"""Write out what nobody would see: "\u202e" turns the text that follows around.

    Control characters, marks of direction and undecodable bytes of file names become escapes, so
    that no name looks like another.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def element(tag: str, *content: Content, **attributes: str | float | bool | None) -> Html:
    """Write an element.

    Args:
        tag: Its name.
        content: What it holds.
        attributes: By name, with "_" for "-" and behind a word of Python's: `class_`. None and
            False leave one out; True gives it no value.
    """
    words = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        shown = f"{value:g}" if isinstance(value, float) else html.escape(visible(value))
        words.append(name if value is True else f'{name}="{shown}"')
    opened = f"<{' '.join(words)}>"
    return Html(opened) if tag in _VOID else Html(f"{opened}{joined(*content)}</{tag}>")


def joined(*content: Content) -> Html:
    """Put content side by side."""
    parts = (
        c if isinstance(c, Html) else html.escape(visible(c)) for c in content if c is not None
    )
    return Html("".join(parts))


def name(text: object) -> Html:
    """Write a name from outside, which does not turn the text around it to its own direction."""
    return element("bdi", str(text))


def paragraph(*content: Content) -> Html:
    """Write a paragraph."""
    return element("p", *content)


def code(*lines: str) -> Html:
    """Write commands that can be copied, a line each."""
    text = Html("\n".join(joined(line) for line in lines))
    return element("pre", element("code", text), tabindex=0)


def shortened(text: object, most: int) -> str:
    """Cut a name for a place that holds so many letters; what it was belongs into a title."""
    shown = visible(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
