"""Where the system starts no thread and no process, from Python."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.core.starting import starting
from featcache.errors import DeviceError
from tests.conftest import save_image


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def digits(folder: Path) -> Path:
    made = featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=4, cache_dir=folder / "cache"
    )
    return made.path


def hash_images(folder: Path) -> object:
    save_image(folder / "pets" / "train" / "cat" / "a.png", 0)
    return featcache.extract(folder / "pets", backbone="pixels", cache_dir=folder / "cache")


def write_rows(folder: Path) -> object:
    return featcache.extract("digits", backbone="pixels", limit=4, cache_dir=folder / "cache")


@pytest.mark.parametrize(
    ("work", "what"),
    [(hash_images, "Threads that hash images"), (write_rows, "Threads that write rows")],
)
def test_without_threads_an_extraction_says_so(
    tmp_path: Path, no_threads: None, work: Callable[[Path], object], what: str
) -> None:
    n_before = threading.active_count()

    with pytest.raises(DeviceError, match=f"{what} cannot be started: can't start new thread") as e:
        work(tmp_path)

    assert "ulimit -u" in str(e.value)
    assert "run the same command again" in str(e.value)
    assert threading.active_count() == n_before


def test_without_threads_a_verification_says_so(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = digits(tmp_path)
    request.getfixturevalue("no_threads")

    with pytest.raises(DeviceError, match=r"Threads that check digests .* Nothing was changed\."):
        featcache.verify_cache(path)


def test_without_processes_an_import_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "a.npz", features=np.zeros((4, 3), np.float32), labels=np.arange(4) % 2)

    def refuse(*_: object, **__: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("subprocess.Popen._execute_child", refuse)

    with pytest.raises(DeviceError, match="The process that reads a foreign file cannot be start"):
        featcache.import_features(
            tmp_path / "a.npz",
            features="features",
            labels="labels",
            name="a",
            cache_dir=tmp_path / "cache",
        )


@pytest.mark.parametrize("said", ["can't start new thread", "Resource temporarily unavailable"])
@pytest.mark.parametrize("verb", [featcache.train_head, featcache.sweep, featcache.extract])
def test_threads_of_the_packages_below_are_named_for_a_caller_in_python_too(
    tmp_path: Path, verb: Callable[..., object], said: str
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError(said)

    path = featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=40, cache_dir=tmp_path / "cache"
    ).path
    options: dict[str, object] = {"dataset": "digits", "backbone": "pixels", "on_progress": refuse}
    if verb is not featcache.extract:
        options = {"cache": path, "runs_dir": tmp_path, "on_progress": refuse}

    with pytest.raises(DeviceError) as caught:
        verb(**options, cache_dir=tmp_path / "other")

    assert str(caught.value).startswith(f"A thread or process cannot be started: {said}. A limit ")
    assert "What was done is kept. Raise the limit" in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(BlockingIOError), starting("A process", kept=""):
        raise BlockingIOError(errno.EAGAIN, "locked", "a file")
    with pytest.raises(RuntimeError, match="another"), starting("A thread", kept=""):
        raise RuntimeError("another")
