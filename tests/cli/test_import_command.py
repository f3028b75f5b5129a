from __future__ import annotations

import json
import shlex
from pathlib import Path

import h5py
import numpy as np

from tests.cli.conftest import Run


def make() -> Path:
    with h5py.File("clip.h5", "w") as h5:
        h5["x"] = np.ones((20, 2, 3), "f8")
        h5["y"] = np.arange(20.0) % 2
    return Path("clip.h5")


def test_the_same_import_twice_is_reused_and_other_labels_are_another_cache(run: Run) -> None:
    command = ["cache", "import", str(make()), "--features", "x", "--labels", "y", "--json"]

    first, second = (json.loads(run(*command).stdout) for _ in range(2))
    with h5py.File("clip.h5", "a") as h5:
        h5["y"][0] = 1
    other = json.loads(run(*command).stdout)

    assert (first["outcome"], second["outcome"], other["outcome"]) == (
        "imported",
        "reused",
        "imported",
    )
    assert first["n_features"] == 6
    assert first["path"] == second["path"] != other["path"]


def test_an_unknown_key_is_exit_2_with_the_nearest_and_leaves_nothing(run: Run) -> None:
    result = run("cache", "import", str(make()), "--features", "xx", "--labels", "y")

    assert result.exit_code == 2
    assert "it has no dataset 'xx'. Did you mean x? It has x, y." in result.stderr
    assert not Path("cache").exists()


def test_a_file_that_is_not_there_is_no_missing_cache(run: Run) -> None:
    result = run("cache", "import", "nix.h5", "--features", "x", "--labels", "y")

    assert result.exit_code == 2
    assert "There is no file nix.h5." in result.stderr


def test_the_next_command_and_the_one_that_mends_are_quoted_for_a_shell(run: Run) -> None:
    place = ["--cache-dir", "my caches"]
    imported = run("cache", "import", str(make()), "--features", "x", "--labels", "y", *place)
    [line] = [line for line in imported.stderr.splitlines() if line.startswith("next: ")]
    options = ["--runs-dir", "my runs", "--max-epochs", "1", "--device", "cpu"]

    trained = run(*shlex.split(line)[2:], *options)

    assert trained.exit_code == 0
    [line] = [line for line in trained.stderr.splitlines() if line.startswith("next: ")]
    assert run(*shlex.split(line)[2:]).exit_code == 0


def test_the_next_command_is_one_that_works_without_labels_too(run: Run) -> None:
    imported = run("cache", "import", str(make()), "--features", "x")
    [line] = [line for line in imported.stderr.splitlines() if line.startswith("next: ")]

    shown = run(*shlex.split(line)[2:])

    assert line.startswith("next: featcache cache info ")
    assert shown.exit_code == 0


def test_a_list_of_images_is_answered_with_extract(run: Run) -> None:
    Path("my pets.csv").write_text("file,label\na.png,cat\n")

    result = run("cache", "import", "my pets.csv", "--features", "x")

    assert result.exit_code == 2
    assert "featcache extract --dataset 'list:my pets.csv'" in result.stderr


def test_ids_of_fixed_length_come_in(run: Run) -> None:
    with h5py.File("clip.h5", "w") as h5:
        h5["x"], h5["y"] = np.ones((20, 2)), np.arange(20) % 2
        h5["ids"] = np.array([f"image {i}" for i in range(20)], "S8")

    command = ["cache", "import", "clip.h5", "--features", "x", "--labels", "y", "--ids", "ids"]

    assert run(*command).exit_code == 0
