"""Hear of each commit what the writer says is safe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from featcache.store import CacheWriter


@contextlib.contextmanager
def told_commits(tell: Callable[[set[int]], object]) -> Iterator[None]:
    """Tell, after each commit within, the slots that it has said are safe."""
    commit = CacheWriter.commit

    def commit_and_tell(writer: CacheWriter, *args: Any) -> None:
        commit(writer, *args)
        tell({block.slot for block in writer.acknowledged()})

    with mock.patch.object(CacheWriter, "commit", commit_and_tell):
        yield
