"""What a person sees: stdout is data, stderr is conversation."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

_LINE_EVERY_S = 5.0

# Nothing on stdout is folded: a file name stays in one piece, in a pipe and under the mouse.
stdout = Console(highlight=False, soft_wrap=True, width=10_000)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)
_running: list[Progress] = []
_started_s = time.monotonic()
_manner = "usual"


def printable(text: object) -> str:
    """Show control characters and undecodable bytes escaped, so that no name drives a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def speak(manner: str) -> None:
    """Choose what is said on stderr: "usual", "quietly" (errors alone), or "fully" (with times)."""
    global _manner, _started_s
    _manner, _started_s = manner, time.monotonic()


def speaks_fully() -> bool:
    """Tell whether the origin of an error is wanted too."""
    return _manner == "fully" or bool(os.environ.get("FEATCACHE_DEBUG"))


def headline(text: str) -> None:
    """Tell what comes next, after an empty line."""
    if _manner != "quietly":
        _say(f"\n[bold]{escape(printable(text))}[/bold]")


def note(text: str) -> None:
    """Tell a choice, a hint, a warning."""
    if _manner != "quietly":
        at = f"{time.monotonic() - _started_s:7.2f} s  " if _manner == "fully" else ""
        _say(f"[dim]{at}{escape(printable(text))}[/dim]")


def fail(text: str, *, kind: str = "error") -> None:
    """Tell what went wrong."""
    _say(f"[bold red]{kind}:[/bold red] {escape(printable(text))}")


def tell_remarks(remarks: Iterable[str]) -> None:
    """Tell what a result says in words, which are notes too, where no note is shown."""
    if _manner == "quietly":
        for remark in remarks:
            _say(f"[bold]remark:[/bold] {escape(printable(remark))}")


def _say(markup: str, *, end: str = "\n") -> None:
    """Write to stderr; that it is full or gone stops no work."""
    with contextlib.suppress(OSError):
        stderr.print(markup, end=end)


def ask(question: str) -> bool:
    """Ask on stderr; anything but "y" or "yes" on stdin, its end among them, is a no."""
    _say(escape(f"{printable(question)} [y/N]"), end=" ")
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer.endswith("\n"):
        _say("")
    return answer.strip().lower() in ("y", "yes")


def show_text(text: str) -> None:
    """Write text to stdout as it is."""
    sys.stdout.write(text)


def show_json(value: Any) -> None:
    """Write one JSON object to stdout."""
    show_text(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def compact_json(value: Any) -> str:
    """Write a result as JSON in one line."""
    return json.dumps(plain(value), allow_nan=False)


def show_line(markup: str) -> None:
    """Write a line to stdout, which nothing folds or cuts."""
    stdout.print(markup)


def plain(value: Any) -> Any:
    """Turn results into what JSON knows; NaN and infinity, which it does not, become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, PurePath | str):
        # JSON escapes control characters itself; a lone surrogate (an undecodable byte of a file
        # name) is what strict parsers refuse.
        return str(value).encode(errors="backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def duration(seconds: float) -> str:
    """Write seconds for people: "2.3 s", "14 min", "1.8 h"."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.2g} min" if minutes < 99.5 else f"{minutes / 60:.1f} h"


def rate_of(images_per_s: float) -> str:
    """Write a rate for people: "38 img/s", "1,234 img/s"."""
    number = f"{images_per_s:,.0f}" if images_per_s >= 100 else f"{images_per_s:.3g}"
    return f"{number} img/s"


class ProgressDisplay:
    """A bar on a terminal; elsewhere one line every 5 seconds."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._told = 0.0

    def show(self, stage: str, n_done: int, n_total: int, detail: str = "") -> None:
        """Show `n_done` of `n_total`, or the stage alone where `n_total` is 0."""
        if _manner == "quietly":
            return
        if stderr.is_terminal:
            self._show_bar(stage, n_done, n_total, detail)
        elif not self._told:
            self._told = time.monotonic()
        elif time.monotonic() - self._told >= _LINE_EVERY_S:
            self._told = time.monotonic()
            percent = 100 * n_done // max(1, n_total)
            counted = f" {n_done} of {n_total} ({percent}%)" if n_total else ""
            line = f"{stage}{counted}  {detail}".rstrip()
            _say(escape(printable(line)))

    def _show_bar(self, stage: str, n_done: int, n_total: int, detail: str) -> None:
        if self._bar is None:
            # One text, so that a narrow terminal cuts its end and not every part.
            text = "{task.description}  {task.fields[detail]}"
            columns = (
                BarColumn(bar_width=16),
                TextColumn(text, markup=False, table_column=Column(no_wrap=True)),
            )
            self._bar = Progress(*columns, console=stderr, transient=True)
            self._bar.start()
            _running.append(self._bar)
        text = f"{stage} {n_done} of {n_total}" if n_total else stage
        if stage != self._stage or self._task is None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(text, total=n_total or None, detail=detail)
            self._stage = stage
        self._bar.update(self._task, completed=n_done, description=text, detail=detail)


def reset_progress() -> None:
    """Take all bars away, so that what is said next stands alone."""
    while _running:
        _running.pop().stop()
