"""Extractions that stop in the middle."""

from __future__ import annotations

import pytest

from featcache.errors import InterruptedRunError
from featcache.extraction.progress import Progress
from tests.extraction.conftest import Extract


class StopAfter:
    """A progress callback that presses Ctrl-C after some extracted batches."""

    def __init__(self, n_batches: int) -> None:
        self.n_left = n_batches

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "extract":
            self.n_left -= 1
            if self.n_left < 0:
                raise KeyboardInterrupt


def interrupt(extract: Extract, n_batches: int, **options: object) -> None:
    with pytest.raises(InterruptedRunError):
        extract(on_progress=StopAfter(n_batches), **options)
