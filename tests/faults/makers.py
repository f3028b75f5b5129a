"""Two ways to make one small cache, which can be stopped anywhere: the store alone, and `extract`.

Both make 13 rows in 4 blocks, the same bytes each time.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import numpy as np

import featcache
from featcache.errors import FeatcacheError, InterruptedRunError
from featcache.extraction.writer_thread import BlockWriter, FinishedBlock
from featcache.store import CacheWriter, list_caches, locked, open_cache, partial_path, read_state
from featcache.store.ledger import SLOT_BYTES
from tests.conftest import save_image
from tests.faults.commits import told_commits
from tests.paces import blocks_of
from tests.store.conftest import Recipe, random_rows

ROWS_PER_BLOCK = 4
ALL = 1000
N_CALLS_OF_A_RUN = 40
"""Calls that write, of most runs: more than a resumed one has, not all that a whole one has."""


class Maker(Protocol):
    """Makes one cache below any home folder."""

    name: str

    def path(self, home: Path) -> Path:
        """Where it will be."""

    def run(self, home: Path, *, n_blocks: int = ALL, n_dropped: int = 0) -> None:
        """Begin or go on: `n_blocks` more, acknowledged, then `n_dropped` that are not."""


class StoreMaker:
    """Writes random rows, statistics and reference rows, in the steps in which `extract` does."""

    name = "store"

    def path(self, home: Path) -> Path:
        return home / "toys" / "toy-00000000.h5"

    def run(self, home: Path, *, n_blocks: int = ALL, n_dropped: int = 0) -> None:
        recipe = self._recipe(home)
        if recipe.path.exists():
            open_cache(recipe.path)
            return
        with locked(recipe.path), self._opened(recipe) as writer:
            writer.recheck()
            if recipe.statistics is not None and writer.read_statistics() is None:
                writer.write_statistics(recipe.statistics)
            if recipe.reference is not None and writer.read_reference() is None:
                writer.write_reference(recipe.reference)
            for block in writer.pending()[:n_blocks]:
                recipe.write(writer, [block])
            recipe.write(writer, writer.pending()[:n_dropped], commit=False)
            if not writer.pending():
                writer.finish()

    def _opened(self, recipe: Recipe) -> CacheWriter:
        if recipe.partial.exists():
            return CacheWriter.resume(recipe.path, recipe.rows())
        return recipe.create()

    def _recipe(self, home: Path) -> Recipe:
        splits = {"train": random_rows(10, 5, reasons={3: "cut"}), "test": random_rows(3, 5)}
        statistics, reference = np.array([1, 2, 3], np.float32), np.ones((2, 5), np.float32)
        return Recipe(
            self.path(home), splits, ROWS_PER_BLOCK, statistics=statistics, reference=reference
        )


class ExtractMaker:
    """Extracts image files with the backbone `pixels`; Ctrl-C stops it."""

    name = "extract"

    def __init__(self, folder: Path) -> None:
        self.images = folder / "pets"
        for i in range(13):
            split = "train" if i < 10 else "test"
            save_image(self.images / split / ("cat" if i % 2 else "dog") / f"{i:02d}.png", i)
        self.run(folder / "named")
        [cache] = list_caches(folder / "named")
        self._name = cache.path.relative_to(folder / "named")

    def path(self, home: Path) -> Path:
        return home / self._name

    def run(self, home: Path, *, n_blocks: int = ALL, n_dropped: int = 0) -> None:
        n_left = n_blocks

        def press_ctrl_c(progress: featcache.Progress) -> None:
            nonlocal n_left
            n_left -= progress.stage == "extract"
            if n_left < 0:
                raise KeyboardInterrupt

        with (
            blocks_of(ROWS_PER_BLOCK),
            contextlib.suppress(InterruptedRunError),
        ):
            featcache.extract(
                f"folder:{self.images}",
                backbone="pixels",
                image_size=8,
                n_workers=0,
                cache_dir=home,
                on_progress=press_ctrl_c,
            )


def repair(maker: Maker, home: Path) -> None:
    """Make a damaged complete cache whole: take its final name away, and go on with it."""
    path = maker.path(home)
    with locked(path):
        read_state(path)  # what is damaged outside its rows is refused, as it is
        path.rename(partial_path(path))
    maker.run(home)


def run_killed(run: Callable[[], None], *, n_calls: int) -> tuple[str, set[int]]:
    """Run in a child that gets SIGKILL at its n-th call that writes; long writes are torn by it.

    Returns:
        How it ended ("killed", "done", "refused" or "broken"), and the slots that it had said were
        safe.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            _kill_at(n_calls)
            with told_commits(lambda slots: _write_line(write_end, slots)):
                run()
            code = 0
        except FeatcacheError:
            code = 2
        finally:
            os._exit(code)
    os.close(write_end)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(read_end) as pipe:
        told = {int(number) for line in pipe for number in line.split()}
    ends = {-signal.SIGKILL: "killed", 0: "done", 2: "refused"}
    return ends.get(status, "broken"), told


def _write_line(pipe: int, slots: set[int]) -> None:
    os.write(pipe, (" ".join(map(str, slots)) + "\n").encode())


def _kill_at(n_calls: int) -> None:
    """Count this process's calls that write, and end it at one of them."""
    n_left = n_calls

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **options: Any) -> Any:
            nonlocal n_left
            if options:  # the folder in memory where a skeleton is made
                return call(*args, **options)
            n_left -= 1
            if n_left == 0:
                if call is pwrite and len(args[1]) > SLOT_BYTES:
                    pwrite(args[0], args[1][: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args)

        return count

    pwrite = os.pwrite
    for place in ("os.pwrite", "os.fsync", "os.replace", "os.unlink", "os.posix_fallocate"):
        mock.patch(place, counted(getattr(os, place.removeprefix("os.")))).start()
    mock.patch("featcache.store.writer.sync_bytes", counted(os.fdatasync)).start()
    # The writing thread commits together what waits by chance; the n-th call is to be the same.
    mock.patch.object(BlockWriter, "put", _write_at_once).start()


def _write_at_once(out: BlockWriter, finished: FinishedBlock) -> None:
    out._writer.write_block(*finished)
    out._writer.commit(out._numerics)


class LockHolder:
    """Another process that holds the lock of a cache."""

    def __init__(self, path: Path) -> None:
        ready, is_ready = os.pipe()
        done, self._is_done = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._is_done)
                with locked(path):
                    os.write(is_ready, b"!")
                    os.read(done, 1)
            finally:
                os._exit(0)
        os.close(is_ready)
        os.close(done)
        assert os.read(ready, 1) == b"!", "the lock was not free"
        os.close(ready)

    def end(self, *, is_killed: bool) -> None:
        """Let the lock go: as a process does that ends, or one that is killed."""
        if is_killed:
            os.kill(self._pid, signal.SIGKILL)
        os.close(self._is_done)
        os.waitpid(self._pid, 0)
