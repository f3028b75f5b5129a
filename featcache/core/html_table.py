"""Results as HTML tables, for notebooks; what comes from outside is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence


def html_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: object = ""
) -> str:
    """Write a table.

    Args:
        columns: Their titles.
        rows: As many cells each; None is an empty one.
        caption: What it is of.
    """
    titles = "".join(f"<th>{_text(title)}</th>" for title in columns)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    head = f"<thead><tr>{titles}</tr></thead>"
    return f"<table>{_caption(caption)}{head}<tbody>{lines}</tbody></table>"


def html_facts(facts: Mapping[str, object], *, caption: object = "") -> str:
    """Write names with what is said of them; None is left out."""
    lines = "".join(
        f"<tr><th>{_text(name)}</th>{_cell(said)}</tr>"
        for name, said in facts.items()
        if said is not None
    )
    return f"<table>{_caption(caption)}<tbody>{lines}</tbody></table>"


def _caption(caption: object) -> str:
    return f"<caption>{_text(caption)}</caption>" if caption else ""


def _cell(said: object) -> str:
    return f"<td>{'' if said is None else _text(said)}</td>"


def _text(said: object) -> str:
    """Escape a text, and show control characters and undecodable bytes by their numbers."""
    return html.escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(said)))
