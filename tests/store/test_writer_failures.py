import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featcache.errors import DiskFullError, StorageError
from featcache.store import CacheWriter, hdf5_file, read_state, require_space, verify_cache, writer
from tests.store.conftest import MakeRecipe, Recipe


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
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)

    with pytest.raises(DiskFullError) as caught:
        require_space(tmp_path / "not" / "yet", nbytes=6_020_000_000)

    assert str(caught.value).startswith(
        f"The cache needs 6.02 GB in {tmp_path}/not/yet, but 1.5 MB are free there: 6.02 GB are "
        f"missing. Nothing was written."
    )
    assert list(tmp_path.iterdir()) == []


def test_space_is_short_from_the_first_byte_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    refused = []

    for nbytes in (99, 100, 101):
        try:
            require_space(tmp_path, nbytes=nbytes)
        except DiskFullError:
            refused.append(nbytes)

    assert refused == [101]
