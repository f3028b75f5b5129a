"""The page around its sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featcache.insight.page.markup import Content, Html, element, joined
from featcache.insight.page.style import css
from featcache.version import __version__

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the browser enforces: no script, no request. Pictures stand in the page itself."""


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        anchor: By which a link finds it: letters and hyphens.
        title: Its heading.
        body: What it holds; headings in it are h3.
    """

    anchor: str
    title: str
    body: Html


def document(
    title: str, *lead: Content, sections: Sequence[Section], about: str = "", made: str = ""
) -> str:
    """Write a page.

    Args:
        title: Its title and first heading.
        lead: What stands below that.
        sections: The sections, in order; where there are several, links to them come first.
        about: A description of the page for whoever lists it.
        made: When it was made, for its last line; empty leaves that out.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"featcache {__version__}"),
        element("meta", name="description", content=about) if about else None,
        element("title", title),
        element("style", Html(css())),
    )
    main = element("main", element("h1", title), *lead, _contents(sections), *map(_write, sections))
    last = f"Written by featcache {__version__}" + (f" on {made}." if made else ".")
    body = element("body", main, element("footer", element("p", last, class_="muted")))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _contents(sections: Sequence[Section]) -> Html | None:
    if len(sections) < 2:
        return None
    links = (element("li", element("a", s.title, href=f"#{s.anchor}")) for s in sections)
    return element("nav", element("ul", *links), aria_label="Sections")


def _write(section: Section) -> Html:
    heading = element("h2", section.title, id=f"{section.anchor}-title")
    return element(
        "section",
        joined(heading, section.body),
        id=section.anchor,
        aria_labelledby=f"{section.anchor}-title",
    )
