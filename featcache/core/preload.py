"""Import slow packages while something else is done."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def preloading(*modules: str) -> Iterator[None]:
    """Import modules in a thread while the body runs; they are there when it ends.

    It pays beside work that leaves Python to others: reading and hashing a file. What an import
    raises is raised here.
    """
    missing = [name for name in modules if name not in sys.modules]
    failures: list[BaseException] = []

    def load() -> None:
        try:
            for name in missing:
                importlib.import_module(name)
        except BaseException as err:
            failures.append(err)

    # A daemon, so that a second Ctrl-C need not wait for it.
    thread = threading.Thread(target=load, daemon=True)
    if missing:
        try:
            thread.start()
        except RuntimeError:  # a limit of processes: they come one after the other
            load()
    try:
        yield
    finally:
        if thread.ident is not None:
            thread.join()
    if failures:
        raise failures[0]
