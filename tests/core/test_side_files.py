from pathlib import Path

import pytest

from featcache.core.side_files import (
    finished_path,
    is_partial,
    lock_path,
    newborn_path,
    partial_path,
)


@pytest.mark.parametrize("name", ["vgg16-1a2b3c4d.h5", "vgg16-l1-1a2b3c4d", "sweep-1a2b3c4d"])
def test_side_files_add_to_the_whole_name(name: str) -> None:
    path = Path("cache", "toys", name)

    assert lock_path(path) == Path("cache", "toys", f"{name}.lock")
    assert partial_path(path) == Path("cache", "toys", f"{name}.partial")
    assert newborn_path(path) == Path("cache", "toys", f"{name}.new")


def test_a_partial_file_knows_what_it_will_be() -> None:
    path = Path("toys", "vgg16-1a2b3c4d.h5")

    assert not is_partial(path)
    assert is_partial(partial_path(path))
    assert finished_path(partial_path(path)) == path
    assert finished_path(path) == path
