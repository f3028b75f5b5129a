"""All that can happen to a cache, in any order, beside a model of what its file then holds."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import featcache.store
from featcache.errors import CacheMissingError, CorruptError, FeatcacheError, LockedError
from featcache.errors import MismatchError as OtherFormatError
from featcache.store import open_cache, partial_path, remove_cache, summarise
from tests.faults.commits import told_commits
from tests.faults.makers import (
    ALL,
    N_CALLS_OF_A_RUN,
    LockHolder,
    Maker,
    repair,
    run_killed,
)
from tests.faults.model import Model

N_STEPS = 20
_N_BLOCKS = st.integers(0, 4)
_FEW_BLOCKS = st.integers(1, 3)
_UNTRUSTED = (CorruptError, OtherFormatError)


@dataclass
class Bench:
    """What all sequences of a run share.

    Attributes:
        folder: Where their caches lie.
        makers: The ways to make one, each with the bytes of an uninterrupted file.
        tally: How often each rule ran, and what it met.
    """

    folder: Path
    makers: Sequence[tuple[Maker, Path]]
    tally: Counter[str] = field(default_factory=Counter)


def counted(step: Callable[..., None]) -> Callable[..., None]:
    """Count a rule's runs under its name."""

    @functools.wraps(step)
    def count(machine: CacheMachine, **arguments: Any) -> None:
        machine.bench.tally[step.__name__] += 1
        machine.n_steps += 1
        step(machine, **arguments)

    return count


class CacheMachine(RuleBasedStateMachine):
    """One cache, at the hands of its owner, other processes and a bad disk."""

    bench: Bench

    @initialize(i=st.sampled_from([0, 0, 1]))
    def begin(self, i: int) -> None:
        self.n_steps = 0
        self.maker, reference = self.bench.makers[i]
        self.model = Model(reference)
        self.reference = open_cache(reference)
        self.home = self._new_home()
        self.left_behind: list[tuple[Path, bytes]] = []
        self.holder: LockHolder | None = None

    @property
    def path(self) -> Path:
        return self.maker.path(self.home)

    @property
    def file(self) -> Path | None:
        """The file under the name that it has now."""
        there = [p for p in (self.path, partial_path(self.path)) if p.exists()]
        assert len(there) < 2, "a cache and its partial file stand side by side"
        return there[0] if there else None

    @rule(n_blocks=_FEW_BLOCKS)
    @precondition(lambda self: self.model.stage == "none")
    @counted
    def create(self, n_blocks: int) -> None:
        self._write(n_blocks=n_blocks)

    @rule(n_blocks=_N_BLOCKS)
    @precondition(lambda self: self.model.stage == "partial")
    @counted
    def extract_some_blocks(self, n_blocks: int) -> None:
        self._write(n_blocks=n_blocks)

    @rule(n_blocks=st.integers(0, 2), n_dropped=st.integers(1, 2))
    @precondition(lambda self: self.model.stage != "complete" and self.maker.name == "store")
    @counted
    def drop_the_writer_before_it_commits(self, n_blocks: int, n_dropped: int) -> None:
        self._write(n_blocks=n_blocks, n_dropped=n_dropped)

    @rule()
    @counted
    def resume(self) -> None:
        was_complete = self.model.stage == "complete"

        is_done = self._write(n_blocks=ALL)

        assert not is_done or self.model.stage == "complete"
        assert not is_done or was_complete or not self.model.flips, "it finished a damaged file"

    @rule(n_calls=st.integers(1, N_CALLS_OF_A_RUN))
    @precondition(lambda self: self.model.stage != "complete" and not self._refusal_to_write())
    @counted
    def kill(self, n_calls: int) -> None:
        ended, told = run_killed(lambda: self.maker.run(self.home), n_calls=n_calls)

        assert ended in ("killed", "done"), ended
        self.bench.tally["kills that struck"] += ended == "killed"
        self.model.learn(self.file, told)

    @rule()
    @precondition(lambda self: self.model.stage == "complete")
    @counted
    def repair(self) -> None:
        refusal: Any = LockedError if self.holder else None
        if refusal is None and self.model.is_untrusted:
            refusal = _UNTRUSTED
        n_flips = len(self.model.flips)

        if self._raises(refusal, lambda: repair(self.maker, self.home)):
            return

        self.model.learn(self.file, set())
        self.bench.tally["repairs of damage"] += n_flips > 0
        assert not self.model.flips, "it was repaired, and is still damaged"

    @rule(place=st.floats(0, 1))
    @precondition(lambda self: self.model.stage != "none")
    @counted
    def flip_a_bit_of_the_rows(self, place: float) -> None:
        self._flip(*self.model.pick("rows", place))

    @rule(kind=st.sampled_from(["ledger", "ledger", "ledger", "skeleton"]), place=st.floats(0, 1))
    @precondition(lambda self: self.model.stage != "none")
    @counted
    def flip_a_bit_elsewhere(self, kind: str, place: float) -> None:
        self._flip(*self.model.pick(kind, place))

    @rule(place=st.floats(0, 1))
    @precondition(lambda self: self.model.flips)
    @counted
    def flip_a_bit_back(self, place: float) -> None:
        flips = sorted(self.model.flips.items())
        self._flip(*flips[min(int(place * len(flips)), len(flips) - 1)])

    @rule(subset=st.sampled_from([0.01, 0.5, 1.0]))
    @counted
    def verify(self, subset: float) -> None:
        if self.file is None:
            self._raises(CacheMissingError, lambda: featcache.store.verify_cache(self.path))
        elif not self.model.is_untrusted:
            report = featcache.store.verify_cache(self.file, subset=subset)

            found = {(d.split, d.first_row, d.last_row) for d in report.damages}
            assert found <= self.model.damages()
            assert report.n_blocks_checked > 0 or not self.model.n_readable_blocks

    @rule()
    @precondition(lambda self: self.model.stage == "complete" and not self.model.flips)
    @counted
    def read(self) -> None:
        cache = open_cache(self.path)

        for name, split in self.reference.splits.items():
            assert cache[name].features.tobytes() == split.features.tobytes()
            assert cache[name].labels.tolist() == split.labels.tolist()
            assert list(cache[name].ids) == list(split.ids)
            assert cache[name].failures == split.failures

    @rule()
    @precondition(lambda self: self.holder is None)
    @counted
    def lock_by_another_process(self) -> None:
        self.holder = LockHolder(self.path)

    @rule(is_killed=st.booleans())
    @precondition(lambda self: self.holder is not None)
    @counted
    def free_the_lock(self, is_killed: bool) -> None:
        self._free(is_killed=is_killed)

    @rule()
    @precondition(lambda self: self.model.stage != "none" or self._beside(".new").exists())
    @counted
    def remove(self) -> None:
        refusal: Any = None
        if self.holder is not None:
            refusal = LockedError
        elif not self._beside(".lock").exists() and self.model.is_untrusted:
            refusal = CorruptError  # it may be anything

        if not self._raises(refusal, lambda: remove_cache(self.path)):
            self.model.forget()
            assert not list(self.path.parent.iterdir())

    @rule()
    @precondition(lambda self: self.model.stage != "none" and self.holder is None)
    @counted
    def copy(self) -> None:
        assert self.file is not None
        source = self.file
        self.left_behind.append((source, source.read_bytes()))
        self.home = self._new_home()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.path.with_name(source.name))

    @rule()
    @counted
    def rename_the_folder(self) -> None:
        before, self.home = self.home, self._new_home()
        self.home.rmdir()
        before.rename(self.home)
        self.left_behind = [
            (self.home / path.relative_to(before) if path.is_relative_to(before) else path, content)
            for path, content in self.left_behind
        ]

    @invariant()
    def what_was_acknowledged_is_there_and_all_else_is_as_it_should_be(self) -> None:
        self.model.require(self.file)
        is_whole = self.model.stage == "complete" and not self.model.flips
        self.bench.tally["complete, sound and byte-identical"] += is_whole

    @invariant()
    def verify_finds_damage_just_where_it_is(self) -> None:
        file = self.file
        if file is None:
            return
        if self.model.is_untrusted:
            self._raises(_UNTRUSTED, lambda: featcache.store.verify_cache(file))
            assert summarise(file).state == "damaged"
            self.bench.tally["damage found"] += 1
            return
        report = featcache.store.verify_cache(file)
        found = [(d.split, d.first_row, d.last_row) for d in report.damages]
        assert len(found) == len(set(found))
        assert set(found) == self.model.damages()
        assert report.n_missing == self.model.n_missing_blocks
        assert summarise(file).state == self.model.word
        self.bench.tally["damage found"] += bool(found)

    def teardown(self) -> None:
        if not hasattr(self, "holder"):  # hypothesis gave up before the first step
            return
        self.bench.tally["sequences"] += self.n_steps >= N_STEPS
        self.bench.tally["steps"] += self.n_steps
        self._free(is_killed=True)
        for path, content in self.left_behind:
            assert path.read_bytes() == content, "a file that was left alone changed"
        for home in self.bench.folder.glob("home*"):
            shutil.rmtree(home)

    def _write(self, *, n_blocks: int, n_dropped: int = 0) -> bool:
        """Run the maker, which must be refused where it should be; tell whether it was not."""
        told: set[int] = set()
        with told_commits(told.update):
            is_refused = self._raises(
                self._refusal_to_write(),
                lambda: self.maker.run(self.home, n_blocks=n_blocks, n_dropped=n_dropped),
            )
        self.model.learn(self.file, told)
        return not is_refused

    def _refusal_to_write(self) -> Any:
        if self.model.stage == "complete":  # it is reused, without a lock
            return _UNTRUSTED if self.model.is_unusable else None
        if self.holder is not None:
            return LockedError
        return _UNTRUSTED if self.model.is_untrusted else None

    def _raises(self, kind: Any, act: Callable[[], object]) -> bool:
        """Tell whether it raised; what it raises must be of this kind, None is nothing at all."""
        raised = None
        try:
            act()
        except FeatcacheError as err:
            raised = err
        if raised is None:
            assert kind is None, f"not refused, though {kind} was due"
            return False
        assert isinstance(raised, kind or ()), f"{type(raised).__name__}: {raised}"
        self.bench.tally[f"refused: {type(raised).__name__}"] += 1
        return True

    def _flip(self, offset: int, mask: int) -> None:
        assert self.file is not None
        with self.file.open("r+b") as file:
            file.seek(offset)
            [byte] = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ mask]))
        self.model.flip(offset, mask)

    def _free(self, *, is_killed: bool) -> None:
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.end(is_killed=is_killed)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def _new_home(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="home", dir=self.bench.folder))


RULES = tuple(
    name for name, step in vars(CacheMachine).items() if hasattr(step, "hypothesis_stateful_rule")
)
