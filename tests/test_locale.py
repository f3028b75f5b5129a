"""One folder, one cache, one file, whatever a process's locale makes of the bytes of names."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import featcache
from featcache.core.paths import healed, native, portable
from featcache.images.datasets import load_dataset
from featcache.images.sources import class_folders
from tests.conftest import save_image

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN_1 = C_LOCALE | {"LC_ALL": "la_LA.ISO-8859-1"}

_LIST = """
import json, sys
from featcache.images.datasets import load_dataset
from featcache.core.paths import portable
pets = load_dataset("folder:" + sys.argv[1], data_dir=".")
ids = {name: list(split.ids) for name, split in pets.splits.items()}
told = [pets.digest(), pets.slug, portable(pets.name), pets.class_names, ids]
print(json.dumps([sys.getfilesystemencoding(), told]))
"""
_MAKE = """
def make(root, place):
    import featcache
    where = {"cache_dir": place + "/cache"}
    featcache.extract("folder:" + root, backbone="pixels", image_size=8, n_workers=0, **where)
    runs = {"runs_dir": place + "/runs", **where}
    run = featcache.train_head(dataset="folder:" + root, backbone="pixels", max_epochs=1, **runs)
    featcache.evaluate(run.path)
"""


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "ünï" / "pétš"
    for i in range(12):
        save_image(root / ("train" if i < 8 else "test") / ("çat", "dög")[i % 2] / f"é{i}.png", i)
    return root


def run(code: str, *arguments: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, check=True, timeout=60
    ).stdout.decode()


@pytest.fixture
def latin_1(tmp_path: Path) -> dict[str, str]:
    """A locale of ISO-8859-1, made here: few machines have one."""
    made = tmp_path / "locales" / LATIN_1["LC_ALL"]
    made.parent.mkdir()
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed")
    subprocess.run(
        ["localedef", "-c", "-i", "POSIX", "-f", "ISO-8859-1", made],
        capture_output=True,
        check=False,  # it warns that POSIX names no author
    )
    if not made.exists():
        pytest.skip("no sources of locales are installed")
    return LATIN_1 | {"LOCPATH": str(made.parent)}


def test_a_folder_reads_alike_in_every_locale(pets: Path, latin_1: dict[str, str]) -> None:
    here = load_dataset(f"folder:{pets}", data_dir=".")

    found = [
        json.loads(run(_LIST, pets, environment=environment)) for environment in (C_LOCALE, latin_1)
    ]

    assert [encoding for encoding, _ in found] == ["ascii", "iso8859-1"]
    ids = {name: list(split.ids) for name, split in here.splits.items()}
    wanted = [here.digest(), here.slug, here.name, list(here.class_names), ids]
    assert [told for _, told in found] == [wanted, wanted]


def test_a_cache_and_its_head_are_the_same_bytes_without_a_locale(
    pets: Path, tmp_path: Path
) -> None:
    place = tmp_path / "plàce"

    run(f"{_MAKE}\nimport sys\nmake(*sys.argv[1:])", pets, place, environment=C_LOCALE)

    there = _bytes(place)
    place.rename(tmp_path / "there")
    here: dict[str, Callable[[str, str], None]] = {}
    exec(_MAKE, here)
    here["make"](str(pets), str(place))
    assert _bytes(place) == there
    assert len(there) == 5


def _bytes(place: Path) -> dict[str, str]:
    """Digests of the files that a second makes the same again."""
    names = {"head.safetensors", "head.json", "metrics.csv", "predictions-test.csv"}
    files = [p for p in place.rglob("*") if p.name in names or p.suffix == ".h5"]
    return {str(p.relative_to(place)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def without_locale(name: str) -> str:
    return name.encode().decode("ascii", errors="surrogateescape")


def test_a_cache_that_was_made_without_a_locale_is_still_the_cache(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"image_size": 8, "n_workers": 0, "cache_dir": tmp_path / "cache"}
    with monkeypatch.context() as before:  # names as such a process reads them
        before.setattr(class_folders, "portable", without_locale)
        made = featcache.extract(f"folder:{pets}", backbone="pixels", **place)

    again = featcache.extract(f"folder:{pets}", backbone="pixels", **place)

    assert (again.outcome, again.path) == ("reused", made.path)
    assert featcache.open_cache(made.path).class_names == ("dög", "çat")
    trained = featcache.train_head(
        dataset=f"folder:{pets}",
        backbone="pixels",
        max_epochs=1,
        cache_dir=tmp_path / "cache",
        runs_dir=tmp_path / "runs",
    )
    assert featcache.load_head(trained.path).class_names == ("dög", "çat")


@pytest.mark.parametrize("name", ["plain", "ünï", os.fsdecode(b"caf\xe9"), "宠物", "\ud800"])
def test_names_come_back_as_they_were(name: str) -> None:
    assert native(portable(name)) == name
    assert healed(name) == name
