"""A small extraction that is told to fail, what it must leave, and a naive one beside it.

The extraction is the command line itself, on a few images in blocks of four rows.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Set
from pathlib import Path
from typing import NamedTuple, Protocol

import h5py
import numpy as np
from typer.testing import CliRunner

from featcache.errors import FeatcacheError
from featcache.store import Block, CacheWriter, list_caches, read_state, verify_cache
from featcache_cli import app
from tests.conftest import save_image
from tests.faults.intercept import Fault, Outcome, run
from tests.paces import blocks_of

_ROWS_PER_BLOCK = 4
_N_IMAGES = {"train": 16, "test": 4}


class Subject(Protocol):
    """Something that fills a file, told to go on where it stopped; a child of `intercept.run`."""

    folder: Path

    def __call__(self, tell: Callable[[int], None]) -> None:
        """Fill the file, telling each row that is acknowledged."""

    def kept(self) -> set[int]:
        """The rows that the file holds."""


class Extraction:
    """`featcache extract` of a few images, with blocks of four rows, each row told by number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cache"
        images = folder / "images"
        for split, n_images in _N_IMAGES.items():
            for i in range(n_images):
                save_image(images / split / ("cat" if i % 2 else "dog") / f"{i:02d}.png", i)
        self._command = (
            f"extract --dataset folder:{images} --backbone pixels --image-size 8 --n-workers 0 "
            f"--cache-dir {self.folder}"
        ).split()

    def __call__(self, tell: Callable[[int], None]) -> None:
        commit = CacheWriter.commit

        def commit_and_tell(writer: CacheWriter, *numerics: object) -> None:
            commit(writer, *numerics)  # type: ignore[arg-type]
            for block in writer.acknowledged():
                for row in _rows(block):
                    tell(row)

        CacheWriter.commit = commit_and_tell  # type: ignore[method-assign]
        sys.argv = ["featcache", *self._command]
        # Each is acknowledged as soon as it is there, without pauses: else the run is over before
        # anything is.
        with blocks_of(_ROWS_PER_BLOCK, commit_s=0.005, n_queued=1, tick_s=0.005):
            app.main()

    def warm_up(self) -> None:
        """Import in this process what its children would import each."""
        assert CliRunner().invoke(app.app, self._command).exit_code == 0
        shutil.rmtree(self.folder)

    def kept(self) -> set[int]:
        """The acknowledged rows whose bytes have their digest."""
        try:
            [cache] = list_caches(self.folder)
            state = read_state(cache.path)
            damaged = {damage.block for damage in verify_cache(cache.path).damages}
        except (ValueError, FeatcacheError):
            return set()
        whole = [b for i, b in enumerate(state.manifest.blocks()) if i not in damaged]
        return {row for b in whole if b.slot in state.slots for row in _rows(b)}


class NaiveAppend:
    """The usual loop: rows appended to a resizable dataset, each said to be done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "naive"

    def __call__(self, tell: Callable[[int], None]) -> None:
        self.folder.mkdir(exist_ok=True)
        with h5py.File(self.folder / "features.h5", "a") as h5:
            if "features" not in h5:
                h5.create_dataset("features", (0, 192), "u1", maxshape=(None, 192))
            features = h5["features"]
            for start in range(len(features), sum(_N_IMAGES.values()), _ROWS_PER_BLOCK):
                rows = np.arange(start, start + _ROWS_PER_BLOCK)
                features.resize(start + _ROWS_PER_BLOCK, axis=0)
                features[start:] = rows[:, None] + 1
                for row in rows:
                    tell(int(row))

    def kept(self) -> set[int]:
        """The rows that hold what was written into them."""
        try:
            with h5py.File(self.folder / "features.h5") as h5:
                features = h5["features"][:]
        except (OSError, KeyError, RuntimeError):
            return set()
        return {i for i, row in enumerate(features) if (row == i + 1).all()}


class Trial(NamedTuple):
    """One extraction with a fault in it, and its resume.

    Attributes:
        outcome: How it ended.
        n_told: Rows that it acknowledged.
        n_lost: Those of them that its file did not hold before the resume.
        is_identical: Whether the resumed file is that of an uninterrupted run, byte for byte.
    """

    outcome: Outcome
    n_told: int
    n_lost: int
    is_identical: bool


class Bench:
    """Tries faults on one subject, against what it makes when nothing happens."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.start_from(None)
        self.whole = run(subject, subject.folder)
        self._files = self._read()
        assert self.whole.status == 0, self.whole.stderr

    @property
    def n_calls(self) -> int:
        """Calls of the uninterrupted run."""
        return len(self.whole.calls)

    def start_from(self, folder: Path | None) -> None:
        """Put a copy of a folder in place of the subject's; None removes it."""
        shutil.rmtree(self.subject.folder, ignore_errors=True)
        if folder is not None:
            shutil.copytree(folder, self.subject.folder)

    def trial(
        self, fault: Fault, *, start: Path | None = None, told: Set[int] = frozenset()
    ) -> Trial:
        """Run with a fault, look what is left, and resume.

        Args:
            fault: What happens.
            start: Where it starts from; None is nothing.
            told: Rows that were acknowledged before.
        """
        self.start_from(start)
        outcome = run(self.subject, self.subject.folder, fault)
        acknowledged = outcome.told | told
        n_lost = len(acknowledged - self.subject.kept())
        finished_at_once = outcome.status == 0 and self._read() == self._files
        resumed = run(self.subject, self.subject.folder)
        is_identical = resumed.status == 0 and self._read() == self._files
        is_identical &= outcome.status != 0 or finished_at_once
        return Trial(outcome, len(acknowledged), n_lost, is_identical)

    def sweep(
        self, kind: str, *, first: int = 1, step: int = 1, lasts: bool = False
    ) -> list[Trial]:
        """Try a fault at each call, until there is none of that number; `step` takes every n-th."""
        trials = []
        for at in range(first, 10_000, step):
            trial = self.trial(Fault(kind, at, lasts))
            if trial.outcome.hit is not None:
                trials.append(trial)
            elif len(trial.outcome.calls) < at:  # else it is a call that cannot be cut short
                break
        return trials

    def _read(self) -> dict[str, bytes]:
        files = [p for p in self.subject.folder.rglob("*") if p.is_file() and p.suffix != ".lock"]
        return {str(p.relative_to(self.subject.folder)): p.read_bytes() for p in files}


def _rows(block: Block) -> range:
    """Number rows over all splits."""
    first = 0 if block.split == "train" else _N_IMAGES["train"]
    return range(first + block.start, first + block.stop)
