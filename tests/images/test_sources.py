"""What holds for every kind of dataset, those that will be added included."""

import subprocess
import sys
from pathlib import Path

import pytest

from featcache.core.dataset_names import KINDS, dataset_name
from featcache.errors import UsageError
from featcache.images.datasets import SOURCES, dataset_slug, list_datasets, load_dataset, path_in
from featcache.images.sources.source import Source

NAMES = [name for source in SOURCES for name in source.names]
LISTED = [info.name for info in list_datasets()]


@pytest.mark.parametrize("name", sorted({*NAMES, *LISTED, *(f"{kind}x" for kind in KINDS)}))
def test_a_name_belongs_to_one_kind(name: str) -> None:
    claiming = [source for source in SOURCES if source.claims(name)]

    assert len(claiming) == 1


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_the_prefix_of_a_kind_is_known_to_those_who_read_names(source: Source) -> None:
    if source.prefix is not None:
        assert dataset_name(f"{source.prefix.upper()}X") == f"{source.prefix}X"
    assert all(dataset_name(name.upper()) == name for name in source.names)


@pytest.mark.parametrize("name", LISTED)
def test_every_listed_name_has_a_slug_that_is_the_name_of_a_folder(name: str) -> None:
    slug = dataset_slug(name)

    assert Path(slug).name == slug
    assert len(LISTED) == len(set(LISTED)) == len({dataset_slug(name) for name in LISTED})


def test_names_of_one_word_are_listed_first_then_the_users_own_images() -> None:
    own = ["folder:PATH", "images:PATH", "list:FILE", "parquet:FILES", "tar:SHARDS", "zip:FILE"]

    assert LISTED[:10] == ["cifar10", "cifar100", "digits", *own, "torchvision:MNIST"]
    assert all(name.startswith("torchvision:") for name in LISTED[9:])


def test_a_kind_without_its_name_says_what_is_missing(tmp_path: Path) -> None:
    for name in ("folder", "folder:"):
        with pytest.raises(UsageError, match=r"'folder:' lacks its path. Write it as: folder:PATH"):
            load_dataset(name, data_dir=tmp_path)
    with pytest.raises(UsageError, match="Unknown torchvision dataset ''"):
        load_dataset("torchvision", data_dir=tmp_path)


def test_imported_features_have_a_slug_but_no_images(tmp_path: Path) -> None:
    assert dataset_slug("imported:clip") == "clip"
    with pytest.raises(UsageError, match="imported:clip was imported as features, so it has no im"):
        load_dataset("imported:clip", data_dir=tmp_path)
    with pytest.raises(UsageError, match="--name is 'a/b'"):
        load_dataset("imported:a/b", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("folder:my:pets", "my:pets"),
        ("list:a#b.csv#label=breed", "a#b.csv"),
        ("tar:a-{0..9}.tar", "a-{0..9}.tar"),
        ("digits", None),
        ("torchvision:SVHN", None),
        ("no:kind", None),
    ],
)
def test_only_the_name_of_the_users_own_images_holds_a_path(name: str, path: str | None) -> None:
    assert path_in(name) == path


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        (
            "featcache.images.datasets as d; d.list_datasets(data_dir='data')",
            {"torch", "torchvision", "sklearn", "scipy"},
        ),
        ("featcache.images.decode_process, featcache.images.batches", {"torch", "torchvision"}),
    ],
    ids=["listing", "decoding"],
)
def test_neither_listing_nor_decoding_imports_a_large_library(
    code: str, unwanted: set[str]
) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys, {code}; print({unwanted!r} & {{*sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )

    assert answer.stdout == "set()\n"
