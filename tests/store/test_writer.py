import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import CorruptError, DiskFullError, StorageError, UnsafeFileError
from featcache.store import (
    Block,
    CacheWriter,
    FilePlan,
    Identity,
    NumericClass,
    Provenance,
    SplitPlan,
    SplitRows,
    hdf5_file,
    open_cache,
    read_state,
    require_space,
    verify_cache,
    writer,
)
from featcache.store.hdf5_file import largest_nbytes
from featcache.store.manifest import COLUMNS
from tests.store.conftest import MakeRecipe, Recipe, Rows, random_rows


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def features_offset(path: Path, block: Block) -> int:
    extent = read_state(path).manifest.splits[block.split].columns["features"]
    return extent.rows(block.start, block.stop)[0]


# Acknowledging.


def test_rows_that_were_not_committed_are_pending_after_reopening(recipe: Recipe) -> None:
    with recipe.create() as first:
        recipe.write(first, first.pending()[:1])
        recipe.write(first, first.pending()[:1], commit=False)

    with CacheWriter.resume(recipe.path, recipe.rows()) as second:
        acknowledged = [(b.split, b.start) for b in second.acknowledged()]
        pending = [(b.split, b.start) for b in second.pending()]

    assert acknowledged == [("train", 0)]
    assert pending == [("train", 4), ("train", 8), ("test", 0)]


def test_rows_that_were_committed_are_kept_by_a_writer_that_is_not_closed(recipe: Recipe) -> None:
    first = recipe.create()
    recipe.write(first, first.pending())

    with CacheWriter.resume(recipe.path, recipe.rows()) as second:
        assert second.pending() == []
        assert second.recheck() == []

    first.close()


def test_blocks_may_be_written_in_any_order(recipe: Recipe, make_recipe: MakeRecipe) -> None:
    straight = make_recipe("toys/straight.h5").build()

    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[::-1])
        cache_writer.finish()

    assert recipe.path.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize("n_first", [0, 1, 2, 3, 4])
def test_a_resumed_file_has_the_bytes_of_an_uninterrupted_one(
    make_recipe: MakeRecipe, n_first: int
) -> None:
    statistics = np.arange(3, dtype=np.float32)
    straight = make_recipe("toys/straight.h5", statistics=statistics).build()
    recipe = make_recipe("toys/cut.h5", statistics=statistics)
    with recipe.create() as first:
        recipe.write(first, first.pending()[:n_first])
        recipe.write(first, first.pending()[:1], commit=False)

    recipe.resume_and_finish()

    assert recipe.path.read_bytes() == straight.read_bytes()


def test_finish_gives_the_file_its_name_and_leaves_nothing_else(recipe: Recipe) -> None:
    recipe.build()

    assert [p.name for p in recipe.path.parent.iterdir()] == ["toy-00000000.h5"]
    assert read_state(recipe.path).is_complete


def test_finish_refuses_while_blocks_are_missing(recipe: Recipe) -> None:
    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[:3])

        with pytest.raises(CorruptError, match=r"\d blocks are not acknowledged\. It was not"):
            cache_writer.finish()

    assert not recipe.path.exists()


def test_finish_refuses_while_statistics_are_missing(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(statistics=np.arange(3, dtype=np.float32))

    with CacheWriter.create(recipe.path, recipe.plan(), recipe.rows()) as cache_writer:
        recipe.write(cache_writer, cache_writer.pending())

        with pytest.raises(CorruptError, match=r"\d blocks are not acknowledged\. It was not"):
            cache_writer.finish()


# What is stored.


def test_float16_rows_are_stored_bit_for_bit(make_recipe: MakeRecipe) -> None:
    rows = random_rows(9, 7, dtype="<f2")
    recipe = make_recipe(splits={"train": rows})

    cache = open_cache(recipe.build())

    assert cache["train"].features.dtype == np.float16
    assert cache["train"].features.tobytes() == rows.features.tobytes()


def test_images_are_stored_as_they_are(make_recipe: MakeRecipe) -> None:
    rows = random_rows(9, 4, 6, 3, dtype="|u1")
    recipe = make_recipe(splits={"train": rows})

    cache = open_cache(recipe.build())

    assert cache["train"].features.shape == (9, 4, 6, 3)
    assert cache.n_features == 72
    np.testing.assert_array_equal(cache["train"].features, rows.features)


def test_rows_that_are_not_contiguous_in_memory_are_stored_in_order(
    make_recipe: MakeRecipe,
) -> None:
    rows = random_rows(9, 7)
    rows.features = np.asfortranarray(rows.features)
    recipe = make_recipe(splits={"train": rows})

    cache = open_cache(recipe.build())

    np.testing.assert_array_equal(cache["train"].features, rows.features)


@pytest.mark.parametrize(
    "ids",
    [
        ["a", "b", "c"],
        ["Käfer/日本語.png", "🦋.png", "x"],
        [os.fsdecode(b"cat/\xff\xfe.png"), "b", "c"],
        ["x" * 4000, "", "c"],
        [" leading", "trailing ", "inner\nline"],
    ],
)
def test_ids_of_any_kind_are_read_back(make_recipe: MakeRecipe, ids: list[str]) -> None:
    rows = random_rows(3, 2)
    rows.ids = ids
    recipe = make_recipe(splits={"train": rows})

    cache = open_cache(recipe.build())

    assert cache["train"].ids == ids


def test_an_id_longer_than_its_place_is_refused_before_a_file_is_left(tmp_path: Path) -> None:
    split = SplitPlan(
        n_rows=2, feature_shape=(1,), feature_dtype="<f4", id_nbytes=3, has_reasons=False
    )
    plan = FilePlan(
        identity=Identity.from_json({"backbone": "toy"}),
        numerics=NumericClass.from_json({}),
        provenance=Provenance.from_json({"dataset": "toys"}),
        class_names=("a",),
        rows_per_block=1,
        splits={"train": split},
    )
    rows = {"train": SplitRows(np.zeros(2, np.int64), ["abc", "abcd"])}

    with pytest.raises(CorruptError, match="it is longer than its place"):
        CacheWriter.create(tmp_path / "a.h5", plan, rows)

    assert list(tmp_path.iterdir()) == []


def test_labels_of_another_length_than_their_split_are_refused(recipe: Recipe) -> None:
    rows = {n: SplitRows(r.labels[:-1], r.ids) for n, r in recipe.splits.items()}

    with pytest.raises(CorruptError, match="its labels or ids are others"):
        CacheWriter.create(recipe.path, recipe.plan(), rows)


@pytest.mark.parametrize(
    ("reason", "stored"),
    [
        ("short", "short"),
        ("x" * 81, "x" * 80),
        ("x" * 79 + "é", "x" * 79),  # two bytes, of which one would fit
        ("x" * 78 + "é", "x" * 78 + "é"),
        ("🦋" * 30, "🦋" * 20),
        ("bad name \udcff", "bad name ?"),
    ],
)
def test_a_reason_is_clipped_to_80_bytes_of_whole_characters(
    make_recipe: MakeRecipe, reason: str, stored: str
) -> None:
    recipe = make_recipe(splits={"train": random_rows(6, 2, reasons={5: reason})})

    cache = open_cache(recipe.build())

    assert cache["train"].failures == {"class 2/image-5.png": stored}


def test_statistics_are_read_back_by_the_writer(make_recipe: MakeRecipe) -> None:
    statistics = np.array([1.5, -2, 3], np.float32)
    recipe = make_recipe(statistics=statistics)
    recipe.create().close()

    with CacheWriter.resume(recipe.path, recipe.rows()) as cache_writer:
        stored = cache_writer.read_statistics()

    assert stored is not None
    np.testing.assert_array_equal(stored, statistics)


def test_damaged_statistics_count_as_not_written(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(statistics=np.arange(3, dtype=np.float32))
    recipe.create().close()
    statistics = read_state(recipe.partial).manifest.statistics
    assert statistics is not None
    flip(recipe.partial, statistics.offset)

    with CacheWriter.resume(recipe.path, recipe.rows()) as cache_writer:
        assert cache_writer.read_statistics() is None


def test_stored_rows_are_read_by_the_writer(recipe: Recipe) -> None:
    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[:1])

        rows = cache_writer.read_rows("train", 1, 3)

    np.testing.assert_array_equal(rows, recipe.splits["train"].features[1:3])


def test_a_block_of_another_numeric_class_is_foreign(recipe: Recipe) -> None:
    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[:1])
        recipe.write(cache_writer, cache_writer.pending()[:1], commit=False)
        cache_writer.commit(NumericClass.from_json({"precision": "tf32"}))

        own, foreign = cache_writer.acknowledged()

        assert not cache_writer.is_foreign(own)
        assert cache_writer.is_foreign(foreign)
    assert read_state(recipe.partial).foreign_blocks == [foreign]


# Damage.


@pytest.mark.parametrize("column", ["features", "labels", "valid", "reason", "ids"])
def test_a_damaged_block_is_found_by_recheck_and_written_again(
    make_recipe: MakeRecipe, column: str
) -> None:
    straight = make_recipe("toys/straight.h5").build()
    recipe = make_recipe("toys/damaged.h5")
    with recipe.create() as first:
        recipe.write(first, first.pending())
        victim = first.acknowledged()[1]
    extent = read_state(recipe.partial).manifest.splits["train"].columns[column]
    flip(recipe.partial, extent.rows(victim.start, victim.stop)[0])

    with CacheWriter.resume(recipe.path, recipe.rows()) as second:
        damaged = second.recheck()
        pending = second.pending()
        recipe.write(second, pending)

    assert damaged == pending == [victim]
    assert recipe.partial.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize("column", ["labels", "ids"])
def test_labels_and_ids_damaged_before_their_block_is_written_are_mended_with_it(
    make_recipe: MakeRecipe, column: str
) -> None:
    straight = make_recipe("toys/straight.h5").build()
    recipe = make_recipe("toys/damaged.h5")
    recipe.create().close()
    flip(recipe.partial, read_state(recipe.partial).manifest.splits["test"].columns[column].offset)

    recipe.resume_and_finish()

    assert recipe.path.read_bytes() == straight.read_bytes()


def test_a_block_that_the_disk_cannot_read_is_found_by_recheck(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending())
        victim = cache_writer.acknowledged()[1]
        bad_sector(monkeypatch, features_offset(recipe.partial, victim))

        damaged = cache_writer.recheck()

    assert damaged == [victim]


def test_a_damaged_slot_makes_its_block_pending(recipe: Recipe) -> None:
    with recipe.create() as first:
        recipe.write(first, first.pending())
    flip(recipe.partial, read_state(recipe.partial).manifest.ledger.offset + 2 * 64 + 20)

    with CacheWriter.resume(recipe.path, recipe.rows()) as second:
        pending = [(b.split, b.start) for b in second.pending()]

    assert pending == [("train", 4)]


@pytest.mark.parametrize("offset", [9, 100, 4096 + 500])
def test_a_partial_file_that_is_damaged_outside_its_rows_is_refused(
    recipe: Recipe, offset: int
) -> None:
    recipe.create().close()
    flip(recipe.partial, offset)

    with pytest.raises(CorruptError) as caught:
        CacheWriter.resume(recipe.path, recipe.rows())

    assert caught.value.exit_code == 13


def test_the_refusal_of_a_damaged_partial_file_says_how_to_begin_anew(recipe: Recipe) -> None:
    recipe.create().close()
    flip(recipe.partial, 100)

    with pytest.raises(CorruptError, match="is damaged outside its rows") as caught:
        CacheWriter.resume(recipe.path, recipe.rows())

    assert f"featcache cache rm {recipe.partial}" in str(caught.value)
    assert "Nothing was changed" in str(caught.value)


def test_resuming_without_a_partial_file_names_it(recipe: Recipe) -> None:
    with pytest.raises(StorageError, match=r"toy-00000000\.h5\.partial: No such file"):
        CacheWriter.resume(recipe.path, recipe.rows())


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_regular_file_is_not_resumed(
    recipe: Recipe, make: Callable[[Path], object]
) -> None:
    recipe.path.parent.mkdir()
    make(recipe.partial)

    with pytest.raises(UnsafeFileError, match=r"h5\.partial is not a regular file") as caught:
        CacheWriter.resume(recipe.path, recipe.rows())

    assert caught.value.exit_code == 15


# Failures of the system, injected at each call.


def bad_sector(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    pread = os.pread

    def read(fd: int, nbytes: int, offset: int) -> bytes:
        if offset <= bad < offset + nbytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, nbytes, offset)

    monkeypatch.setattr(os, "pread", read)


def fail_at(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, *, call: int, error: int
) -> Callable[[], int]:
    """Let call number `call` of a function fail; return a count of all calls."""
    real, n_calls = getattr(where, name), 0

    def sometimes(*args: Any, **options: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == call:
            raise OSError(error, os.strerror(error))
        return real(*args, **options)

    monkeypatch.setattr(where, name, sometimes)
    return lambda: n_calls


CREATING = [
    *[(os, "posix_fallocate", call) for call in (1, 2)],
    *[(os, "pwrite", call) for call in (1, 2, 6)],
    *[(os, "fsync", call) for call in (1, 2)],
    (os, "open", 1),
]


@pytest.mark.parametrize(("where", "name", "call"), CREATING)
@pytest.mark.parametrize(
    ("error", "kind", "exit_code"),
    [
        (errno.ENOSPC, DiskFullError, 14),
        (errno.EDQUOT, DiskFullError, 14),
        (errno.EFBIG, DiskFullError, 14),
        (errno.EIO, StorageError, 1),
        (errno.EACCES, StorageError, 1),
        (errno.EROFS, StorageError, 1),
    ],
)
def test_a_failed_creation_is_named_and_leaves_no_new_file(
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    call: int,
    error: int,
    kind: type[StorageError],
    exit_code: int,
) -> None:
    n_calls = fail_at(monkeypatch, where, name, call=call, error=error)

    with pytest.raises(StorageError) as caught:
        recipe.create()

    assert n_calls() >= call
    assert type(caught.value) is kind
    assert caught.value.exit_code == exit_code
    assert f"{recipe.partial}: {os.strerror(error)} (errno {error}). Nothing" in str(caught.value)
    monkeypatch.undo()
    assert not recipe.path.with_name(recipe.path.name + ".new").exists()
    assert recipe.build().exists()


def write_one_by_one(recipe: Recipe, cache_writer: CacheWriter) -> None:
    for block in cache_writer.pending():
        recipe.write(cache_writer, [block])
    cache_writer.finish()


def test_libhdf5_opens_no_file_on_the_disk(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    for name in ("create", "open"):
        original = getattr(hdf5_file.h5f, name)

        def note(path: bytes, *more: Any, original: Any = original, **named: Any) -> Any:
            opened.append(os.fsdecode(path))
            return original(path, *more, **named)

        monkeypatch.setattr(hdf5_file.h5f, name, note)
    monkeypatch.setattr(hdf5_file, "_MEMORY", str(tmp_path / "memory"))
    (tmp_path / "memory").mkdir()

    make_recipe().build()

    assert len(opened) == 4
    assert all(path.startswith(str(tmp_path / "memory")) for path in opened)
    assert list((tmp_path / "memory").iterdir()) == []


def test_a_machine_without_a_folder_in_memory_makes_the_same_bytes(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = make_recipe("usual/toy-00000000.h5").build().read_bytes()
    monkeypatch.setattr(hdf5_file, "_MEMORY", str(tmp_path / "nowhere"))

    assert make_recipe("other/toy-00000000.h5").build().read_bytes() == usual


@pytest.mark.parametrize(
    ("where", "name", "call", "n_kept"),
    [
        *[(os, "pwrite", call, 0) for call in range(1, 7)],  # five columns and the slot
        (os, "pwrite", 7, 4),
        (writer, "sync_bytes", 1, 0),
        (writer, "sync_bytes", 2, 0),
        (writer, "sync_bytes", 3, 4),
        (os, "fsync", 1, 13),  # before the file gets its name
    ],
)
@pytest.mark.parametrize(
    ("error", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EIO, StorageError)]
)
def test_a_failed_write_says_how_many_rows_are_kept_and_resume_completes_the_file(
    make_recipe: MakeRecipe,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    call: int,
    n_kept: int,
    error: int,
    kind: type[StorageError],
) -> None:
    straight = make_recipe("toys/straight.h5").build()
    recipe = make_recipe("toys/failed.h5")
    cache_writer = recipe.create()
    fail_at(monkeypatch, where, name, call=call, error=error)

    with cache_writer, pytest.raises(kind) as caught:
        write_one_by_one(recipe, cache_writer)

    assert str(recipe.partial) in str(caught.value)
    assert f"{n_kept} rows are kept." in str(caught.value)
    monkeypatch.undo()
    recipe.resume_and_finish()
    assert recipe.path.read_bytes() == straight.read_bytes()


def test_a_sync_that_failed_once_acknowledges_nothing_when_tried_again(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[:1], commit=False)
        fail_at(monkeypatch, writer, "sync_bytes", call=1, error=errno.EIO)
        with pytest.raises(StorageError):
            cache_writer.commit()

        cache_writer.commit()  # succeeds, though the kernel may have dropped the rows

        assert cache_writer.acknowledged() == []
    assert read_state(recipe.partial).n_rows_done == 0


def test_writes_cut_short_by_the_system_go_on_where_they_stopped(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = make_recipe("toys/straight.h5").build()
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, part, at: pwrite(fd, bytes(part)[:7], at))

    recipe = make_recipe("toys/short.h5")
    recipe.build()

    assert recipe.path.read_bytes() == straight.read_bytes()


def test_reads_cut_short_by_the_system_go_on_where_they_stopped(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 1000), at))

    report = verify_cache(built)

    assert report.is_sound


def test_the_order_is_rows_then_sync_then_slot_then_sync(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    cache_writer = recipe.create()
    ledger = cache_writer.manifest.ledger
    pwrite, sync = os.pwrite, writer.sync_bytes

    def noted_write(fd: int, part: bytes, at: int) -> int:
        inside = ledger.offset <= at < ledger.offset + ledger.nbytes
        events.append("slot" if inside else "rows")
        return pwrite(fd, part, at)

    def noted_sync(fd: int) -> None:
        events.append("sync")
        sync(fd)

    monkeypatch.setattr(os, "pwrite", noted_write)
    monkeypatch.setattr(writer, "sync_bytes", noted_sync)

    with cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[:2])

    assert events == ["rows"] * 10 + ["sync"] + ["slot"] * 2 + ["sync"]


def test_space_that_is_missing_is_named_with_all_three_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1_500_000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)

    with pytest.raises(DiskFullError) as caught:
        require_space(tmp_path / "not" / "yet", nbytes=6_020_000_000)

    assert str(caught.value).startswith(
        f"The cache needs 6.02 GB in {tmp_path}/not/yet, but 1.5 MB are free there: 6.02 GB are "
        f"missing. Nothing was written."
    )
    assert list(tmp_path.iterdir()) == []


def test_space_that_suffices_is_no_error(tmp_path: Path) -> None:
    require_space(tmp_path, nbytes=1)


# Any history.

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


def test_the_largest_size_of_a_planned_file_bounds_it(make_recipe: MakeRecipe) -> None:
    for shape in ((5,), (25_088,), (3, 40, 40)):
        recipe = make_recipe(splits={"train": random_rows(10, *shape), "test": random_rows(3, 5)})
        size = recipe.build().stat().st_size

        assert size <= largest_nbytes(recipe.plan()) <= size + 200_000
        recipe.path.unlink()
