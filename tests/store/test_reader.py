import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from featcache.errors import (
    CacheMissingError,
    CorruptError,
    FeatcacheError,
    StorageError,
    UnknownSplitError,
    UnsafeFileError,
    UsageError,
    counted,
)
from featcache.store import (
    describe_cache,
    open_cache,
    read_state,
    read_trunk_statistics,
    remove_cache,
    verify_cache,
)
from tests.store.conftest import MakeRecipe, Recipe, random_rows


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


# What is read.


def test_a_cache_says_what_it_holds(built: Path, recipe: Recipe) -> None:
    cache = open_cache(built)

    assert cache.path == built
    assert list(cache.splits) == ["train", "test"]
    assert cache.class_names == ("ant", "bee", "cow")
    assert cache.identity == recipe.identity
    assert cache.provenance == {"dataset": "toys"}
    assert cache.fingerprint == read_state(built).manifest.identity.fingerprint
    assert cache.n_features == 5
    assert [len(split) for split in cache.splits.values()] == [10, 3]


def test_a_split_is_read_by_its_name(built: Path, recipe: Recipe) -> None:
    train = open_cache(built)["train"]

    wanted = recipe.splits["train"]
    np.testing.assert_array_equal(train.features, wanted.features)
    np.testing.assert_array_equal(train.labels, wanted.labels)
    assert train.labels.dtype == np.int64
    assert train.valid.dtype == np.bool_
    assert np.flatnonzero(~train.valid).tolist() == [3]
    assert train.ids == wanted.ids


def test_a_path_may_be_text(built: Path) -> None:
    cache = open_cache(str(built))

    assert cache.path == built


def test_a_cache_opened_by_a_relative_path_is_read_from_any_folder(
    built: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built.parent)
    cache = open_cache(built.name)

    monkeypatch.chdir("/")

    np.testing.assert_array_equal(cache["train"].features, recipe.splits["train"].features)
    assert cache["train"].ids == recipe.splits["train"].ids
    assert verify_cache(cache.path).is_sound


def test_a_path_may_begin_at_home(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(built.parent))
    path = f"~/{built.name}"

    assert open_cache(path).path == built
    assert verify_cache(path).path == built
    assert describe_cache(path).path == built
    assert remove_cache(path) == [built]


def test_features_are_mapped_and_read_only(built: Path) -> None:
    features = open_cache(built)["train"].features

    assert isinstance(features, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        features[0] = 1


def test_opening_a_cache_reads_no_features(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extent = read_state(built).manifest.splits["train"].columns["features"]
    read: list[range] = []
    pread = os.pread

    def noted(fd: int, nbytes: int, offset: int) -> bytes:
        read.append(range(offset, offset + nbytes))
        return pread(fd, nbytes, offset)

    monkeypatch.setattr(os, "pread", noted)

    open_cache(built)

    places = range(extent.offset, extent.offset + extent.nbytes)
    inside = [r for r in read if r.start < places.stop and r.stop > places.start]
    assert read != []
    assert inside == []


def test_failures_are_the_reasons_by_id(built: Path) -> None:
    cache = open_cache(built)

    assert cache["train"].failures == {"class 0/image-3.png": "truncated"}
    assert cache["test"].failures == {}


def test_failures_without_reasons_are_named_all_the_same(make_recipe: MakeRecipe) -> None:
    rows = random_rows(3, 2, reasons={1: "lost"})
    recipe = make_recipe(splits={"train": rows}, has_reasons=False)

    cache = open_cache(recipe.build())

    assert cache["train"].failures == {"class 1/image-1.png": "not readable"}


def test_an_unknown_split_is_a_key_error(built: Path) -> None:
    cache = open_cache(built)

    with pytest.raises(KeyError, match="val"):
        cache["val"]


def test_opening_a_cache_imports_neither_torch_nor_the_network(built: Path) -> None:
    code = (
        "import sys; from featcache.store import open_cache\n"
        f"open_cache({str(built)!r})['train'].features.sum()\n"
        "assert 'torch' not in sys.modules"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


# The backbone's statistics.


def test_the_statistics_are_read_by_name_and_shape(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(statistics=np.array([1, 2, 3], np.float32))

    statistics = read_trunk_statistics(recipe.build())

    assert {n: s.tolist() for n, s in statistics.items()} == {
        "bn.running_mean": [1.0],
        "bn.running_var": [[2.0, 3.0]],
    }


def test_a_frozen_backbone_has_no_statistics(built: Path) -> None:
    assert read_trunk_statistics(built) == {}


def test_damaged_statistics_are_refused(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(statistics=np.array([1, 2, 3], np.float32))
    statistics = read_state(recipe.build()).manifest.statistics
    assert statistics is not None
    overwrite(recipe.path, statistics.offset, b"\x01")

    with pytest.raises(CorruptError, match="the backbone's running statistics are damaged"):
        read_trunk_statistics(recipe.path)


def test_statistics_whose_slot_is_empty_are_not_taken_for_a_frozen_backbone(
    make_recipe: MakeRecipe,
) -> None:
    recipe = make_recipe(statistics=np.array([1, 2, 3], np.float32))
    ledger = read_state(recipe.build()).manifest.ledger
    overwrite(recipe.path, ledger.offset + 64, bytes(64))

    with pytest.raises(CorruptError, match="the backbone's running statistics are damaged"):
        read_trunk_statistics(recipe.path)


# What is not read.


def test_a_split_that_is_not_there_is_named_with_the_nearest(built: Path) -> None:
    cache = open_cache(built)

    with pytest.raises(UnknownSplitError) as caught:
        cache["tran"]

    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == (
        f"Unknown split 'tran'. Did you mean 'train'? List all with: featcache cache info {built}"
    )


def test_a_cache_gives_its_splits_as_a_mapping_does(built: Path) -> None:
    cache = open_cache(built)

    assert list(cache) == list(cache.keys()) == ["train", "test"]
    assert dict(cache) == cache.splits
    assert len(cache) == 2
    assert "train" in cache
    assert "val" not in cache
    assert 0 not in cache


@pytest.mark.parametrize("key", [0, None, slice(3), ("train",), ["train"]])
def test_a_split_is_asked_for_by_name_only(built: Path, key: object) -> None:
    cache = open_cache(built)

    with pytest.raises(UsageError) as caught:
        cache[key]  # type: ignore[index]

    assert str(caught.value) == (
        f"A cache gives its splits by name, not by {key!r}. It has 'train', 'test'."
    )


def test_an_incomplete_cache_is_missing_with_its_rows_counted(
    recipe: Recipe, tmp_path: Path
) -> None:
    with recipe.create() as writer:
        recipe.write(writer, writer.pending()[:2])

    with pytest.raises(CacheMissingError, match="is not complete: 8 of 13 rows are") as caught:
        open_cache(recipe.partial)

    assert caught.value.exit_code == 10
    command = f"featcache extract --dataset toys --backbone toy --cache-dir {tmp_path}"
    assert str(caught.value).endswith(f"It goes on from there with: {command}")


def test_a_cache_that_is_not_there_is_missing_with_the_command_that_lists(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match=r"There is no cache at .*nowhere\.h5") as caught:
        open_cache(tmp_path / "nowhere.h5")

    assert isinstance(caught.value, FileNotFoundError)
    assert "featcache cache ls" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x89", b"not HDF5" * 1000, b"\x89HDF\r\n\x1a\r" * 1000])
def test_a_file_that_is_not_hdf5_is_refused_with_its_size(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.h5"
    path.write_bytes(content)

    with pytest.raises(CorruptError, match=r"other\.h5 is not an HDF5 file") as caught:
        open_cache(path)

    assert caught.value.exit_code == 13
    assert f"({counted(len(content), 'byte')}, no HDF5" in str(caught.value)


def test_only_what_is_called_as_a_cache_is_advised_to_be_repaired(tmp_path: Path) -> None:
    listing, cache = tmp_path / "x.csv", tmp_path / "x.h5"
    refusals = []
    for path in (listing, cache):
        path.write_text("file,label\n")
        with pytest.raises(CorruptError, match="is not an HDF5 file") as caught:
            open_cache(path)
        refusals.append(str(caught.value))

    assert refusals[0].endswith("Give a file that featcache wrote.")
    assert refusals[1].endswith(f"Mend it with: featcache cache repair {cache}")


def test_a_plain_hdf5_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as h5:
        h5["train/features"] = np.zeros((3, 2000), np.float32)

    with pytest.raises(CorruptError, match="is an HDF5 file, but not a featcache cache"):
        open_cache(path)


def test_a_file_that_is_hdf5_by_its_signature_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")

    with pytest.raises(CorruptError, match="byte 4096 should begin a manifest"):
        open_cache(path)


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "pipe.h5"
    os.mkfifo(path)
    code = f"from featcache.store import open_cache; open_cache({str(path)!r})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)

    assert "UnsafeFileError" in done.stderr
    assert "is not a regular file, so it is not read" in done.stderr


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match="is not a regular file") as caught:
        open_cache(tmp_path)

    assert caught.value.exit_code == 15


def test_a_device_is_refused() -> None:
    with pytest.raises(UnsafeFileError, match="/dev/null is not a regular file"):
        open_cache("/dev/null")


def test_a_link_to_a_cache_is_followed(built: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.h5"
    link.symlink_to(built)

    cache = open_cache(link)

    assert cache["train"].features.shape == (10, 5)


def test_a_link_to_nowhere_is_missing(tmp_path: Path) -> None:
    link = tmp_path / "link.h5"
    link.symlink_to(tmp_path / "nowhere.h5")

    with pytest.raises(CacheMissingError):
        open_cache(link)


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.h5"
    link.symlink_to(link)

    with pytest.raises(StorageError, match=r"Cannot read .*link\.h5: Too many levels"):
        open_cache(link)


def test_a_file_that_the_disk_cannot_read_is_named(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, nbytes: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)

    with pytest.raises(StorageError, match=r"Cannot read .*toy-00000000\.h5: Input/output error"):
        open_cache(built)


def test_a_finished_cache_with_an_empty_slot_is_damaged_and_not_incomplete(built: Path) -> None:
    ledger = read_state(built).manifest.ledger
    overwrite(built, ledger.offset + 2 * 64, bytes(64))

    with pytest.raises(CorruptError, match="damaged slots of its ledger: 1"):
        open_cache(built)


def test_a_file_damaged_outside_its_rows_is_refused(built: Path) -> None:
    overwrite(built, 100, b"\xff\xff")

    with pytest.raises(CorruptError, match="is damaged outside its rows"):
        open_cache(built)


def test_every_refusal_is_a_featcache_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    path.write_bytes(b"not HDF5")

    with pytest.raises(FeatcacheError, match="Give a file that featcache wrote"):
        open_cache(path)
