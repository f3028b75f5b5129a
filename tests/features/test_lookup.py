"""Which cache is meant: by listing, by dataset and backbone, or because it is the only one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import featcache
from featcache.errors import CacheMissingError, DatasetError, MismatchError, UsageError
from featcache.features.lookup import the_cache
from tests.conftest import save_image
from tests.store.conftest import Recipe, random_rows

Find = Callable[..., Path]


def put(root: Path, *paths: str) -> Path:
    for i, path in enumerate(paths):
        save_image(root / path, i, size=(8, 8))
    return root


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Four images of two classes to train on, and one to test."""
    names = ("train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "train/dog/4.png")
    return put(tmp_path / "a/pets", *names, "test/dog/5.png")


@pytest.fixture
def extract(tmp_path: Path) -> Find:
    """Extract pixels of a dataset, and give the path of their cache."""

    def extract(dataset: str | Path, **options: Any) -> Path:
        name = f"folder:{dataset}" if isinstance(dataset, Path) else dataset
        place = {"cache_dir": tmp_path / "cache", "data_dir": tmp_path / "data"}
        return featcache.extract(
            name, backbone="pixels", image_size=8, n_workers=0, **place, **options
        ).path

    return extract


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Look for a cache by what was given, and give its path; what was told is in `find.told`."""

    def find(dataset: str | Path | None = None, backbone: str | None = None) -> Path:
        name = f"folder:{dataset}" if isinstance(dataset, Path) else dataset
        told: list[str] = []
        vars(find)["told"] = told
        found = the_cache(
            None, dataset=name, backbone=backbone, cache_dir=tmp_path / "cache", on_note=told.append
        )
        vars(find)["remarks"] = found.remarks
        return found.cache.path

    return find


def recipe(path: Path) -> Recipe:
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = {"backbone": path.name.partition("-")[0], "bn": "frozen"}
    return Recipe(path, {"train": random_rows(4, 3)}, identity=identity)


def make(path: Path) -> Path:
    """Write a small complete cache, without images."""
    return recipe(path).build()


# By the listing of a folder.


def test_a_copy_of_the_folder_elsewhere_has_the_same_cache(
    pets: Path, extract: Find, find: Find, tmp_path: Path
) -> None:
    path = extract(pets)
    shutil.copytree(pets, tmp_path / "b/pets")

    assert find(tmp_path / "b/pets", "pixels") == path
    assert vars(find)["remarks"] == (
        f"The images of folder:{tmp_path}/b/pets were not read; the cache was made from those of "
        f"folder:{pets}. To check that they are the same: featcache extract --dataset "
        f"folder:{tmp_path}/b/pets --backbone pixels --image-size 8 --cache-dir {tmp_path}/cache",
    )
    assert vars(find)["told"][0] == vars(find)["remarks"][0]


def test_of_two_caches_that_fit_the_one_of_the_named_folder_is_taken(
    pets: Path, extract: Find, find: Find, tmp_path: Path
) -> None:
    other = tmp_path / "b/pets"
    shutil.copytree(pets, other)
    save_image(other / "train/cat/1.png", 99, size=(8, 8))
    paths = {folder: extract(folder, limit=n) for folder, n in ((pets, None), (other, 4))}

    for backbone in ("pixels", None):
        assert {folder: find(folder, backbone) for folder in paths} == paths
        assert vars(find)["remarks"] == ()


def test_of_two_caches_of_other_folders_none_is_taken_and_both_are_listed(
    pets: Path, extract: Find, find: Find, tmp_path: Path
) -> None:
    third = tmp_path / "c/pets"
    shutil.copytree(pets, tmp_path / "b/pets")
    shutil.copytree(pets, third)
    save_image(tmp_path / "b/pets/train/cat/1.png", 99, size=(8, 8))
    paths = {folder: extract(folder) for folder in (pets, tmp_path / "b/pets")}

    with pytest.raises(UsageError, match="2 caches of pixels are in") as caught:
        find(third, "pixels")

    for folder, path in paths.items():
        assert f"{path} (5 rows; made from folder:{folder}; written " in str(caught.value)


def test_a_relative_folder_is_the_same_from_wherever_it_is_named(
    pets: Path, find: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "a")
    options = {"backbone": "pixels", "image_size": 8, "cache_dir": tmp_path / "cache"}
    featcache.extract("folder:pets", **options, n_workers=0)
    find(pets, "pixels")
    assert vars(find)["remarks"] == ()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")

    find("folder:pets", "pixels")

    # Only the folder that we stand in can be meant: none lies beside or above the cache.
    assert vars(find)["remarks"] == ()


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("mv test val", "the splits are train, val there, and train, test in the cache"),
        ("mv train/dog train/wolf; mv test/dog test/wolf", "class 1 is 'wolf' there, and 'dog' in"),
        ("mv train/cat/2.png train/dog/2.png", "train row 1 is 'train/dog/2.png' there, and"),
        ("rm test/dog/5.png; touch test/dog/6.png", "test row 0 is 'test/dog/6.png' there, and"),
        (
            "touch train/dog/9.png",
            "train row 4 is 'train/dog/9.png' there, and missing in the cache (5 there, 4 in the",
        ),
        (
            "rm train/dog/4.png",
            "train row 3 is missing there, and 'train/dog/4.png' in the cache (3 there, 4 in the",
        ),
    ],
)
def test_another_folder_of_the_same_name_is_refused_with_the_first_difference(
    pets: Path, extract: Find, find: Find, tmp_path: Path, change: str, difference: str
) -> None:
    path = extract(pets)
    other = tmp_path / "b/pets"
    shutil.copytree(pets, other)
    for command in change.split("; "):
        _apply(other, *command.split())

    with pytest.raises(MismatchError) as caught:
        find(other, "pixels")

    assert str(caught.value).startswith(f"{path} is not of '{other}': {difference}")
    command = f"featcache extract --dataset folder:{other} --backbone pixels --image-size 8"
    assert command in str(caught.value)


def _apply(root: Path, verb: str, source: str, target: str = "") -> None:
    if verb == "mv":
        (root / source).rename(root / target)
    elif verb == "rm":
        (root / source).unlink()
    else:
        (root / source).touch()


def test_of_several_caches_of_other_rows_the_nearest_is_named(
    pets: Path, extract: Find, find: Find, tmp_path: Path
) -> None:
    far = put(tmp_path / "b/pets", "train/ant/1.png", "train/bee/2.png")
    near = tmp_path / "c/pets"
    shutil.copytree(pets, near)
    (near / "test/dog/5.png").rename(near / "test/dog/6.png")
    paths = [extract(far), extract(near)]

    with pytest.raises(MismatchError) as caught:
        find(pets, "pixels")

    assert str(caught.value).startswith(
        f"{paths[1]}, the nearest of 2 caches there, is not of '{pets}': test row 0 is "
        f"'test/dog/5.png' there, and 'test/dog/6.png' in the cache."
    )


def test_of_two_folders_of_one_name_each_has_its_own_cache(
    pets: Path, extract: Find, find: Find, tmp_path: Path
) -> None:
    other = put(tmp_path / "b/pets", "train/ant/1.png", "train/bee/2.png")
    paths = {folder: extract(folder) for folder in (pets, other)}

    found = {folder: find(folder, "pixels") for folder in (pets, other)}

    assert found == paths


def test_a_limited_cache_is_compared_with_as_many_rows_and_told(
    pets: Path, extract: Find, find: Find
) -> None:
    path = extract(pets, limit=3)

    assert find(pets, "pixels") == path
    assert vars(find)["told"][-1] == (
        f"cache {path}: 4 rows, limit 3 images of each split, image size 8 px"
    )


def test_images_are_not_read_and_that_is_told(
    pets: Path, extract: Find, find: Find, tmp_path: Path
) -> None:
    path = extract(pets)
    (pets / "train/cat/1.png").write_bytes(b"not read")

    assert find(pets, "pixels") == path
    assert vars(find)["told"][0] == (
        f"the cache was found by the names of the images; the images themselves were not read. "
        f"To check them: featcache extract --dataset folder:{pets} --backbone pixels --image-size "
        f"8 --cache-dir {tmp_path / 'cache'}"
    )


def test_of_two_caches_of_other_images_each_has_its_time_and_extract_tells_them_apart(
    pets: Path, extract: Find, find: Find
) -> None:
    caches = [extract(pets)]
    save_image(pets / "train/cat/1.png", 99, size=(8, 8))
    caches.append(extract(pets))
    first, second = sorted(caches)
    os.utime(first, (0, 0))
    os.utime(second, (60, 60))

    with pytest.raises(UsageError) as caught:
        find(pets, "pixels")

    said = str(caught.value)
    made_from = f"made from folder:{pets}"
    assert f"{first} (5 rows; {made_from}; written 1970-01-01 00:00:00 UTC), {second} (" in said
    assert "00:01:00 UTC; made from other images than the first). Nothing was started." in said
    assert f"it names the one: featcache extract --dataset folder:{pets} --backbone pixels" in said
    assert "sha256" not in said
    assert extract(pets) == caches[1]


def test_a_folder_that_is_gone_is_refused_with_the_way_out(
    pets: Path, extract: Find, find: Find
) -> None:
    extract(pets)
    shutil.rmtree(pets)

    with pytest.raises(DatasetError, match=r"pets' does not exist.*name the cache with --cache"):
        find(pets, "pixels")


@pytest.mark.parametrize("verb", [featcache.train_head, featcache.sweep])
def test_a_result_says_that_the_images_of_the_named_folder_were_not_read(
    pets: Path, extract: Find, tmp_path: Path, verb: Callable[..., Any]
) -> None:
    extract(pets)
    shutil.copytree(pets, tmp_path / "b/pets")

    result = verb(
        dataset=f"folder:{tmp_path}/b/pets",
        backbone="pixels",
        val_fraction=0.25,
        hidden=2,
        max_epochs=1,
        cache_dir=tmp_path / "cache",
        runs_dir=tmp_path / "runs",
    )

    assert result.remarks[0].startswith(f"The images of folder:{tmp_path}/b/pets were not read; ")


@pytest.mark.parametrize("verb", [featcache.train_head, featcache.sweep])
def test_no_head_is_trained_on_the_cache_of_another_folder(
    pets: Path, extract: Find, tmp_path: Path, verb: Callable[..., object]
) -> None:
    extract(pets)
    other = put(tmp_path / "b/pets", "train/cat/1.png", "train/dog/2.png")

    with pytest.raises(MismatchError):
        verb(
            dataset=f"folder:{other}",
            backbone="pixels",
            cache_dir=tmp_path / "cache",
            runs_dir=tmp_path / "runs",
        )

    assert not (tmp_path / "runs").exists()


# By what is there.


def test_the_defaults_come_first(find: Find, tmp_path: Path) -> None:
    make(tmp_path / "cache/cifar10/resnet18-0.h5")
    default = make(tmp_path / "cache/cifar10/vgg16-0.h5")

    assert find() == default


def test_without_the_defaults_the_only_cache_is_taken_and_told(find: Find, tmp_path: Path) -> None:
    only = make(tmp_path / "cache/digits/resnet18-0.h5")

    assert find() == only
    assert vars(find)["told"][0] == (
        f"the only cache that fits is taken, {only}: there is none of vgg16 in "
        f"{tmp_path}/cache/cifar10"
    )


def test_without_the_defaults_several_are_listed(find: Find, tmp_path: Path) -> None:
    paths = [make(tmp_path / f"cache/{name}/resnet18-0.h5") for name in ("digits", "svhn")]

    with pytest.raises(UsageError, match=r"^2 caches could be meant") as caught:
        find()

    assert all(str(path) in str(caught.value) for path in paths)
    assert "Say which: --cache" in str(caught.value)


def test_the_dataset_alone_takes_its_only_cache(find: Find, tmp_path: Path) -> None:
    make(tmp_path / "cache/cifar10/vgg16-0.h5")
    only = make(tmp_path / "cache/digits/resnet18-0.h5")

    assert find("digits") == only


def test_the_backbone_alone_takes_its_only_cache(find: Find, tmp_path: Path) -> None:
    make(tmp_path / "cache/cifar10/vgg16-0.h5")
    only = make(tmp_path / "cache/digits/resnet18-0.h5")

    assert find(backbone="resnet18") == only


def test_features_imported_under_the_name_of_a_dataset_are_not_taken_for_it(
    find: Find, tmp_path: Path
) -> None:
    source = tmp_path / "clip.h5"
    with h5py.File(source, "w") as file:
        file["f"], file["l"] = np.eye(4, dtype="f4"), np.array([0, 1, 0, 1])
    place = {"name": "digits", "cache_dir": tmp_path / "cache"}
    path = featcache.import_features(source, features="f", labels="l", **place).path

    with pytest.raises(CacheMissingError):
        find("digits")

    assert find("imported:digits") == path


def test_the_folder_alone_takes_the_only_cache_that_fits_it(
    pets: Path, extract: Find, find: Find, tmp_path: Path
) -> None:
    path = extract(pets)
    make(path.with_name("resnet18-0.h5"))

    assert find(pets) == path


def test_where_both_are_given_no_other_is_taken(find: Find, tmp_path: Path) -> None:
    make(tmp_path / "cache/digits/resnet18-0.h5")

    with pytest.raises(CacheMissingError, match="no complete cache of vgg16") as caught:
        find("digits", "vgg16")

    command = f"featcache extract --dataset digits --backbone vgg16 --cache-dir {tmp_path}/cache"
    assert str(caught.value).endswith(f"Make it with: {command}")


def test_an_unfinished_cache_is_not_taken_but_told(find: Find, tmp_path: Path) -> None:
    unfinished = recipe(tmp_path / "cache/digits/vgg16-0.h5")
    unfinished.create().close()

    with pytest.raises(CacheMissingError) as caught:
        find("digits")

    assert f"{unfinished.partial} is incomplete: 0 of 4 rows. Make it" in str(caught.value)
    # Its manifest names no size, weights or precision.
    command = f"featcache extract --dataset digits --backbone vgg16 --cache-dir {tmp_path}/cache"
    assert str(caught.value).endswith(command)
