from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.backbones.engines.code_folder import _random_folder, code_folder, private_folder
from featcache.errors import UnsafeFileError

ANOTHER = 65534  # nobody
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second user")


def mode_of(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def test_compiled_code_lies_in_the_users_cache_closed_to_others(caches: Path) -> None:
    before = os.umask(0)
    try:
        folder = code_folder()
    finally:
        os.umask(before)

    assert folder == caches / "featcache" / "compiled" or mode_of(caches) & 0o022
    assert mode_of(folder) == 0o700


def test_it_is_the_same_folder_again(caches: Path) -> None:
    first = code_folder()
    (first / "kept").touch()

    assert (code_folder() / "kept").exists()


def test_a_folder_that_others_could_write_to_is_passed_over_for_one_of_a_random_name(
    caches: Path,
) -> None:
    folder = code_folder()
    folder.chmod(0o770)

    other = code_folder()

    assert other.name.startswith("featcache-")
    assert mode_of(other) == 0o700
    assert code_folder() == other


def test_the_folder_of_a_random_name_goes_with_its_process(tmp_path: Path) -> None:
    code = "from featcache.backbones.engines.code_folder import code_folder; print(code_folder())"
    (tmp_path / "no-folder").touch()
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "no-folder")}

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )

    assert Path(ended.stdout).name.startswith("featcache-")
    assert not Path(ended.stdout.strip()).exists()


def test_a_relative_path_in_the_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(Path("/nonexistent")))
    _random_folder.cache_clear()

    assert code_folder().is_absolute()
    assert not Path("relative").exists()


def test_a_folder_of_another_user_is_refused() -> None:
    """`/` stands in for one that a second user made, where no second user can act."""
    folder = Path("/") if os.geteuid() else Path("/proc/self")

    with pytest.raises(UnsafeFileError, match=r"must be yours \(user \d+\) and have mode 0700"):
        private_folder(folder, name="FOLDER")


@as_root
def test_what_a_second_user_made_is_refused_though_root_could_write_there(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, ANOTHER, ANOTHER)

    with pytest.raises(UnsafeFileError, match=f"is user {ANOTHER}'s with mode 0700"):
        private_folder(folder, name="FOLDER")


@as_root
def test_a_folder_inside_a_second_users_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    mine = theirs / "mine"
    mine.mkdir(mode=0o700, parents=True)
    os.chown(theirs, ANOTHER, ANOTHER)

    with pytest.raises(UnsafeFileError, match="another user can put his own folder in its place"):
        private_folder(mine, name="FOLDER")


@pytest.mark.parametrize(("mode", "is_refused"), [(0o777, True), (0o1777, False), (0o755, False)])
def test_a_folder_that_others_can_rename_is_refused(
    tmp_path: Path, mode: int, is_refused: bool
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)

    if is_refused:
        with pytest.raises(UnsafeFileError, match=r"lies in .*mode 0777"):
            private_folder(shared / "mine", name="FOLDER")
    else:
        assert private_folder(shared / "mine", name="FOLDER") == shared / "mine"


def test_a_link_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "true").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("true")

    assert private_folder(tmp_path / "link", name="FOLDER") == tmp_path / "true"
