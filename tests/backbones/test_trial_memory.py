from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from featcache.backbones.engines.trial_memory import Remembered, recall, remember

KEY = {"compiler": "winograd 1a2b, g++ 14", "backbone": "vgg16", "batch_size": 16}
FOUND = Remembered(compile_s=1.5, gain=2.6)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "featcache" / "engines.json"


def test_what_was_found_is_remembered_by_all_that_decides_it(file: Path) -> None:
    remember(KEY, FOUND)
    remember(KEY | {"batch_size": 8}, Remembered(9.0, 1.0))

    assert recall(KEY) == FOUND
    assert recall(KEY | {"backbone": "vgg19"}) is None
    assert [path.name for path in file.parent.iterdir()] == ["engines.json"]


def test_it_is_forgotten_after_a_month(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(KEY, FOUND)
    now = time.time()

    monkeypatch.setattr(time, "time", lambda: now + 29 * 24 * 3600)
    assert recall(KEY) == FOUND
    monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600)
    assert recall(KEY) is None

    remember(KEY | {"batch_size": 8}, FOUND)
    assert file.read_text().count("winograd") == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1, 2]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": 1, "b": {"gain": 1}, "c": {"gain": "x", "compile_s": 1, "time": 1}}',
        b'{"d": {"gain": NaN, "compile_s": 1, "time": 1}, "e": {"gain": 1e999}}',
        b"{" + b" " * (2 << 20) + b"}",
    ],
)
def test_a_file_of_any_content_is_one_that_remembers_nothing(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)

    assert recall(KEY) is None
    remember(KEY, FOUND)
    assert recall(KEY) == FOUND


def test_where_nothing_can_be_kept_nothing_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.touch()

    remember(KEY, FOUND)

    assert recall(KEY) is None
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "relative")
    remember(KEY, FOUND)
    assert recall(KEY) is None
    assert not os.path.lexists("relative")


def test_numbers_that_are_text_are_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember({"engine": "a"}, Remembered(1.0, 2.0))
    [file] = tmp_path.rglob("engines.json")
    file.write_text(file.read_text().replace("2.0", '"2.0"'))

    assert recall({"engine": "a"}) == Remembered(1.0, 2.0)
