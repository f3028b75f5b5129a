from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import featcache
from featcache.errors import DiskFullError
from featcache.extraction.result import ExtractResult
from featcache.extraction.writer_thread import BlockWriter, FinishedBlock
from featcache.store import Block
from tests.paces import small_blocks


class SlowWriter:
    """Stands where a CacheWriter would, on a slow disk; records what it is asked to do."""

    def __init__(self, *, write_s: float = 0.0) -> None:
        self.write_s = write_s
        self.written: list[int] = []
        self.committed: list[int] = []
        self.is_closed = False

    def write_block(self, block: Block, *_: object) -> None:
        time.sleep(self.write_s)
        assert not self.is_closed, "a write after the file was closed"
        self.written.append(block.slot)

    def commit(self, numerics: object) -> None:
        self.committed = list(self.written)


def finished(slot: int) -> FinishedBlock:
    return FinishedBlock(Block(slot, "train", 0, 1), np.zeros((1, 1)), np.ones(1, np.bool_), {})


def test_leaving_waits_until_all_blocks_are_acknowledged() -> None:
    writer = SlowWriter(write_s=0.02)

    with BlockWriter(writer, {}) as out:  # type: ignore[arg-type]
        for slot in range(6):
            out.put(finished(slot))

    assert sorted(writer.committed) == [0, 1, 2, 3, 4, 5]


def test_the_last_commit_is_not_missed_however_the_threads_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clear = threading.Event.clear

    def clear_slowly(event: threading.Event) -> None:
        time.sleep(0.2)  # in which whoever set it may set it again, for the last time
        clear(event)

    monkeypatch.setattr(threading.Event, "clear", clear_slowly)
    writer = SlowWriter()

    def write() -> None:
        with BlockWriter(writer, {}) as out:  # type: ignore[arg-type]
            out.put(finished(1))
            time.sleep(0.1)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(5)

    assert not thread.is_alive()
    assert writer.committed == [1]


def test_an_error_on_its_way_is_not_replaced_and_whole_blocks_are_kept() -> None:
    writer = SlowWriter(write_s=0.02)

    with (
        pytest.raises(ZeroDivisionError),
        BlockWriter(writer, {}) as out,  # type: ignore[arg-type]
    ):
        out.put(finished(1))
        raise ZeroDivisionError

    assert writer.committed == [1]


def test_a_second_interruption_never_leaves_the_thread_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = SlowWriter(write_s=0.3)
    join = threading.Thread.join
    presses = [KeyboardInterrupt()]

    def join_interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if presses:
            raise presses.pop()
        join(thread, timeout)

    with pytest.raises(KeyboardInterrupt), BlockWriter(writer, {}) as out:  # type: ignore[arg-type]
        for slot in range(3):
            out.put(finished(slot))
        time.sleep(0.1)
        monkeypatch.setattr(threading.Thread, "join", join_interrupted)
    writer.is_closed = True

    assert writer.written == writer.committed
    assert len(writer.written) < 3
    assert not [t for t in threading.enumerate() if t.name == "featcache-writer"]


@small_blocks(1)
def test_a_disk_that_fills_up_in_mid_run_keeps_the_rows_before(
    extract: Callable[..., ExtractResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, n_large = os.pwrite, iter(range(1000))

    def pwrite_until_full(fd: int, content: memoryview, offset: int) -> int:
        if len(content) > 60_000 and next(n_large) >= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, content, offset)

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", pwrite_until_full)
        with pytest.raises(DiskFullError, match=r"No space left.*\d+ rows are kept") as err:
            extract()
    assert err.value.exit_code == 14
    result = extract()

    assert result.outcome == "resumed"
    assert 0 < result.n_rows_computed < result.n_rows
    assert featcache.verify_cache(result.path).is_sound
