"""Both ways to run a command: in this process, and in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import featcache
from featcache.errors import InterruptedRunError
from featcache_cli.app import app
from tests.conftest import save_image
from tests.paces import blocks_of

Run = Callable[..., Result]
Spawn = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the default folders cache/ and data/ are ours."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Run:
    """Run a command in this process."""

    def run(*arguments: str, answers: str = "") -> Result:
        return CliRunner().invoke(app, arguments, input=answers)

    return run


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **(extra or {})}


@pytest.fixture
def spawn() -> Spawn:
    """Run a command in a process of its own, or with `code` what calls it."""

    def spawn(*arguments: str, code: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        start = ["-c", code] if code else ["-m", "featcache_cli"]
        return subprocess.run(
            [sys.executable, *start, *arguments],
            capture_output=True,
            text=True,
            env=child_environment(extra),
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    return spawn


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes; 12 images in train, 4 in test."""
    root = tmp_path / "pets"
    for i in range(16):
        split = "train" if i < 12 else "test"
        save_image(root / split / ("cat" if i % 2 else "dog") / f"{i:02d}.png", i)
    return root


@pytest.fixture
def pixels(pets: Path) -> list[str]:
    """A command that takes a moment: the 16 images themselves, at 8 px."""
    place = ["--image-size", "8", "--n-workers", "0"]
    return ["extract", "--dataset", f"folder:{pets}", "--backbone", "pixels", *place]


@pytest.fixture
def small_blocks() -> Iterator[None]:
    """Four rows a block, so that 16 rows have four."""
    with blocks_of(4):
        yield


@pytest.fixture
def cache_file(pixels: list[str], run: Run, small_blocks: None) -> Path:
    """The cache of the 16 images."""
    assert run(*pixels).exit_code == 0
    [summary] = featcache.list_caches("cache")
    return summary.path


@pytest.fixture
def partial_file(pets: Path, small_blocks: None) -> Path:
    """What is left of a run that Ctrl-C stopped after 8 of 16 rows."""

    def press_ctrl_c(progress: featcache.Progress) -> None:
        if progress.stage == "extract" and progress.n_done == 8:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        featcache.extract(
            f"folder:{pets}",
            backbone="pixels",
            image_size=8,
            n_workers=0,
            on_progress=press_ctrl_c,
        )
    [summary] = featcache.list_caches("cache")
    assert summary.n_rows_done == 8
    return summary.path
