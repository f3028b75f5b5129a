import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.errors import CorruptError, StorageError, UnsafeFileError
from featcache.store import Block, CacheWriter, read_state
from tests.store.conftest import MakeRecipe, Recipe
from tests.store.damage import flip


def features_offset(path: Path, block: Block) -> int:
    extent = read_state(path).manifest.splits[block.split].columns["features"]
    return extent.rows(block.start, block.stop)[0]


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


def bad_sector(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    pread = os.pread

    def read(fd: int, nbytes: int, offset: int) -> bytes:
        if offset <= bad < offset + nbytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, nbytes, offset)

    monkeypatch.setattr(os, "pread", read)
