"""State of the whole process that featcache changes for a while and then restores.

The last thread that needs the change restores the state. If each thread restored it by itself, two
threads that overlap would go wrong: the second would take the first one's change for the user's
own state, and would leave it behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager


class WhileAnyInside:
    """A context that the first thread inside enters, and the last one leaves."""

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        """Take what makes the context that changes the process, and puts it back."""
        self._make = make
        self._turn = threading.Lock()
        self._n_inside = 0
        self._changed: AbstractContextManager[object] | None = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Be inside."""
        with self._turn:
            if not self._n_inside:
                self._changed = self._make()
                self._changed.__enter__()
            self._n_inside += 1
        try:
            yield
        finally:
            with self._turn:
                self._n_inside -= 1
                if not self._n_inside and self._changed is not None:
                    self._changed.__exit__(None, None, None)
                    self._changed = None


_FILTERS = WhileAnyInside(warnings.catch_warnings)


@contextlib.contextmanager
def warnings_ignored(category: type[Warning] = Warning, *, module: str = "") -> Iterator[None]:
    """Ignore warnings; until the last thread has left, for Python keeps one list of filters.

    Args:
        category: Which ones.
        module: Regular expression for the start of the module that warns; empty is all.
    """
    with _FILTERS():
        warnings.filterwarnings("ignore", category=category, module=module)
        yield


def errors_alone(*names: str) -> WhileAnyInside:
    """Make a context in which these loggers tell errors only."""

    @contextlib.contextmanager
    def quiet() -> Iterator[None]:
        loggers = [logging.getLogger(name) for name in names]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    return WhileAnyInside(quiet)


@contextlib.contextmanager
def _without_nvml() -> Iterator[None]:
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.pop(name, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


nvml_left_alone = WhileAnyInside(_without_nvml)
"""Lets torch ask the CUDA runtime, not the driver's library, whether there is a GPU.

Every optimiser step asks. Importing Lightning sets this variable to 1, and on a machine that has
torch's CUDA build but no GPU each answer then costs 0.1 ms, a twentieth to a tenth of a small
head's step (docs/benchmarks.md).
"""
