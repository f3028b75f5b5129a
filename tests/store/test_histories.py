import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.store import Block, CacheWriter
from featcache.store.manifest import COLUMNS
from tests.store.conftest import Recipe, Rows, random_rows
from tests.store.damage import flip

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 6)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
        st.tuples(st.just("damage"), st.integers(0, 10_000)),
    ),
    max_size=12,
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tiny(path: Path) -> Recipe:
    rows = {"train": random_rows(5, 3, reasons={1: "cut"}), "test": random_rows(2, 3)}
    return Recipe(path, rows, rows_per_block=1)


@pytest.fixture(scope="module")
def tiny_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sha256(tiny(tmp_path_factory.mktemp("straight") / "tiny.h5").build())


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_no_history_of_writes_cuts_and_damage_ends_in_other_bytes(
    tmp_path_factory: pytest.TempPathFactory, tiny_sha256: str, steps: list[tuple[str, int]]
) -> None:
    recipe = tiny(tmp_path_factory.mktemp("history") / "tiny.h5")
    cache_writer = recipe.create()
    committed: set[Block] = set()
    written: set[Block] = set()
    damaged: set[Block] = set()

    for step, number in steps:
        if step == "write" and (pending := cache_writer.pending()):
            block = pending[number % len(pending)]
            recipe.write(cache_writer, [block], commit=False)
            written.add(block)
            damaged.discard(block)
        elif step == "commit":
            cache_writer.commit()
            committed |= written
            written = set()
        elif step == "damage" and (candidates := sorted(committed - damaged)):
            victim = candidates[number % len(candidates)]
            columns = cache_writer.manifest.splits[victim.split].columns
            offset, nbytes = columns[COLUMNS[number % 5]].rows(victim.start, victim.stop)
            flip(recipe.partial, offset + number % nbytes)
            damaged.add(victim)
        elif step == "reopen":
            cache_writer.close()
            cache_writer = CacheWriter.resume(recipe.path, recipe.rows())
            written = set()
            assert set(cache_writer.acknowledged()) == committed
            assert set(cache_writer.recheck()) == damaged

    cache_writer.close()
    recipe.resume_and_finish()
    assert sha256(recipe.path) == tiny_sha256


def test_the_default_rows_are_not_all_alike() -> None:
    rows: Rows = random_rows(10, 5)

    assert len({row.tobytes() for row in rows.features}) == 10
