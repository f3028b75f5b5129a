"""How far a call is, shown below the cell of a Jupyter notebook."""

from __future__ import annotations

import html
import math
import time
from typing import Any

from featcache.errors import UsageError

_EVERY_S = 0.2


class JupyterProgress:
    """A bar below a notebook's cell: give one as `on_progress` to any function that takes it.

    Example:
        >>> featcache.extract("digits", on_progress=featcache.JupyterProgress())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        """Require a notebook.

        Raises:
            UsageError: Elsewhere, where nothing shows a bar: an IPython of a terminal writes
                "<IPython.core.display.HTML object>" instead.
        """
        if not _is_notebook():
            raise UsageError(
                "featcache.JupyterProgress shows a bar in a Jupyter notebook, and this is none. "
                "Nothing was started. Give on_progress a function of your own, or leave it out."
            )
        self._handle: Any = None
        self._shown_s = -math.inf

    def __call__(self, progress: Any, n_total: int | None = None) -> None:
        """Show what an `on_progress` is called with: an object, or (done, of how many)."""
        if n_total is None:
            n_done, n_total = progress.n_done, getattr(progress, "n_total", 0)
            said = _told(progress)
        else:
            n_done, said = progress, ""
        is_last = bool(n_total) and n_done >= n_total
        if not is_last and time.monotonic() - self._shown_s < _EVERY_S:
            return
        self._shown_s = time.monotonic()
        self._show(f"{_bar(n_done, n_total)} {html.escape(said)}")

    def _show(self, markup: str) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(markup), display_id=True)
        else:
            self._handle.update(HTML(markup))


def _is_notebook() -> bool:
    """Tell whether cells come from a front end, by the kernel that serves it."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def _bar(n_done: int, n_total: int) -> str:
    if not n_total:
        return f"<progress></progress> {n_done}"
    return f'<progress value="{n_done}" max="{n_total}"></progress> {n_done} of {n_total}'


def _told(progress: Any) -> str:
    """Say what the progress of an extraction, a training, a sweep or a solver has beside counts."""
    words = [str(getattr(progress, name, "")) for name in ("stage", "solver", "split")]
    if hasattr(progress, "max_epochs"):
        words.append(f"epoch {min(progress.epoch + 1, progress.max_epochs)}/{progress.max_epochs}")
    left_s = getattr(progress, "left_s", 0.0)
    if left_s:
        words.append(f"{left_s:.0f} s left")
    return ", ".join(filter(None, words))
