"""Folders that others must not write to: what is refused, and what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featcache.core.private_folder import private_folder
from featcache.errors import UnsafeFileError

ANOTHER = 65534  # nobody
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second user")


def test_a_folder_of_another_user_is_refused() -> None:
    """`/` stands in for one that a second user made, where no second user can act."""
    folder = Path("/") if os.geteuid() else Path("/proc/self")

    with pytest.raises(UnsafeFileError, match=r"must be yours \(user \d+\) and have mode 0700"):
        private_folder(folder, name="FOLDER", danger="DANGER")


@as_root
def test_what_a_second_user_made_is_refused_though_root_could_write_there(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, ANOTHER, ANOTHER)

    with pytest.raises(UnsafeFileError, match=f"is user {ANOTHER}'s with mode 0700"):
        private_folder(folder, name="FOLDER", danger="DANGER")


@as_root
def test_a_folder_inside_a_second_users_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    mine = theirs / "mine"
    mine.mkdir(mode=0o700, parents=True)
    os.chown(theirs, ANOTHER, ANOTHER)

    with pytest.raises(UnsafeFileError, match="another user can put his own folder in its place"):
        private_folder(mine, name="FOLDER", danger="DANGER")


@pytest.mark.parametrize(("mode", "is_refused"), [(0o777, True), (0o1777, False), (0o755, False)])
def test_a_folder_that_others_can_rename_is_refused(
    tmp_path: Path, mode: int, is_refused: bool
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)

    if is_refused:
        with pytest.raises(UnsafeFileError, match=r"lies in .*mode 0777"):
            private_folder(shared / "mine", name="FOLDER", danger="DANGER")
    else:
        assert private_folder(shared / "mine", name="FOLDER", danger="DANGER") == shared / "mine"


def test_a_link_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "true").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("true")

    assert private_folder(tmp_path / "link", name="FOLDER", danger="DANGER") == tmp_path / "true"
