from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.backbones.engines.code_folder import _random_folder, code_folder


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
