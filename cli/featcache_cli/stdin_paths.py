"""Paths on stdin, given on as they come: who writes them slowly is answered soon."""

from __future__ import annotations

import itertools
import os
import select
import time
from collections.abc import Iterator

from featcache.core.stopping import stop_if_asked
from featcache.errors import UsageError

_MOST_PATHS = 4096
_WAITS_S = 0.5  # for more, once there is one
_LOOKS_EVERY_S = 0.2
_TOLD = {b"\n": "a line end", b"\0": "a zero byte"}
_READ_BYTES = 1 << 16
_LONGEST_BYTES = 1 << 20  # of one path: far above what any system takes


def paths_from(stdin: int, *, ends_with: bytes) -> Iterator[list[str]]:
    """Give what comes: up to 4,096 paths at a time, or fewer where half a second brings no more.

    The first are waited for here.

    Args:
        stdin: File descriptor of stdin, or of another stream.
        ends_with: What stands behind each path: a newline, or a zero byte.

    Raises:
        UsageError: If it ends without any; while they are taken, if one is longer than 1 MiB.
    """
    portions = _portions(stdin, ends_with)
    first = next(portions, None)
    if first is None:
        raise UsageError(
            "No path came on stdin. Nothing was started. Write one a line, as in: "
            "find photos -name '*.jpg' | featcache predict -"
        )
    return itertools.chain([first], portions)


def _portions(stdin: int, ends_with: bytes) -> Iterator[list[str]]:
    rest, paths, has_ended = b"", list[str](), False
    since_s = 0.0
    while not has_ended:
        wait_s = _LOOKS_EVERY_S if paths else None
        content = _read(stdin, wait_s)
        if content == b"":
            has_ended = True
            lines, rest = [rest], b""
        elif content is not None:
            *lines, rest = (rest + content).split(ends_with)
        else:
            lines = []
        if not paths:
            since_s = time.monotonic()
        paths += [os.fsdecode(line) for line in lines if line]
        while len(paths) >= _MOST_PATHS:
            yield paths[:_MOST_PATHS]
            del paths[:_MOST_PATHS]
        if paths and (has_ended or time.monotonic() - since_s > _WAITS_S):
            yield paths
            paths = []
        if len(rest) > _LONGEST_BYTES:
            if paths:
                yield paths
            raise UsageError(
                f"On stdin came more than 1 MiB without {_TOLD[ends_with]}: that is no path. No "
                f"more is read. Write one path a line, or, with -0, a zero byte behind each."
            )


def _read(stdin: int, wait_s: float | None) -> bytes | None:
    """Read what is there; None if nothing came within `wait_s`, which None makes endless."""
    while True:
        stop_if_asked()
        ready, _, _ = select.select([stdin], [], [], _LOOKS_EVERY_S if wait_s is None else wait_s)
        if ready:
            return os.read(stdin, _READ_BYTES)
        if wait_s is not None:
            return None
