from pathlib import Path

import pytest

from featcache.core.find_by_part import find_by_part
from featcache.errors import CacheMissingError, UsageError

RUNS = {
    "toy/vgg16-l1-1a2b3c4d": Path("runs/toy/vgg16-l1-1a2b3c4d"),
    "toy/vgg16-l1-1a2b3c4d.partial": Path("runs/toy/vgg16-l1-1a2b3c4d.partial"),
    "toy/vgg16-l2-5e6f7a8b": Path("runs/toy/vgg16-l2-5e6f7a8b"),
}


def find(wanted: str) -> Path:
    return find_by_part(wanted, RUNS, kind="run", place="runs", way_out="Train one.")


def test_a_part_that_one_name_has_finds_it() -> None:
    assert find("l2-5e") == Path("runs/toy/vgg16-l2-5e6f7a8b")


def test_a_whole_name_is_found_though_another_has_it_in_it() -> None:
    assert find("toy/vgg16-l1-1a2b3c4d") == Path("runs/toy/vgg16-l1-1a2b3c4d")


def test_a_part_of_several_names_is_refused_with_all_of_them() -> None:
    with pytest.raises(UsageError) as caught:
        find("l1-1a2b")

    assert str(caught.value) == (
        "'l1-1a2b' fits several runs: runs/toy/vgg16-l1-1a2b3c4d, "
        "runs/toy/vgg16-l1-1a2b3c4d.partial. Give more of its name."
    )


def test_a_misspelt_name_is_told_the_nearest_and_the_way_out() -> None:
    with pytest.raises(CacheMissingError) as caught:
        find("toy/vgg16-12-5e6f7a8b")

    message = str(caught.value)
    assert message.startswith(
        "There is no run 'toy/vgg16-12-5e6f7a8b', neither at that path nor in runs. Did you mean "
        "toy/vgg16-l2-5e6f7a8b"
    )
    assert message.endswith("? Train one.")


def test_a_name_like_no_other_is_told_the_way_out_alone() -> None:
    with pytest.raises(CacheMissingError) as caught:
        find("zzz")

    assert str(caught.value) == (
        "There is no run 'zzz', neither at that path nor in runs. Train one."
    )
