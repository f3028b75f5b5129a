from __future__ import annotations

import json

import h5py
import numpy as np

import featcache
from tests.cli.conftest import Run

SMALL = [
    *("parity", "--dataset", "digits", "--backbone", "mobilenet_v3_small", "--weights", "random"),
    *("--image-size", "32", "--limit", "24", "--epochs", "1", "--batch-size", "8"),
]


def test_it_prints_each_figure_with_its_tolerance(run: Run) -> None:
    result = run(*SMALL)

    assert result.exit_code == 0
    rows = result.stdout.splitlines()
    assert rows[0].split() == ["what", "figure", "tolerance"]
    assert all(row.endswith("  holds") for row in rows[1:6])
    assert all(len(row) <= 80 for row in rows[:6])
    assert [" level 1: " in row for row in rows[6:]] == [True, True, False, False, False]


def test_a_figure_that_falls_short_is_exit_1(run: Run) -> None:
    run(*SMALL)
    [cache] = featcache.list_caches("cache")
    with h5py.File(cache.path) as h5:
        stored = h5["train/features"]
        dtype, offset, shape = stored.dtype, stored.id.get_offset(), stored.shape
    rows = np.memmap(cache.path, dtype, "r+", offset, shape)
    rows[0] += 1
    rows.flush()

    result = run(*SMALL)

    assert result.exit_code == 1
    assert result.stdout.count("FALLS SHORT") >= 1


def test_json_has_every_figure(run: Run) -> None:
    answer = json.loads(run(*SMALL, "--levels", "1", "--json").stdout)

    assert answer["bn"] == "frozen"
    assert [check["holds"] for check in answer["checks"]] == [True, True]


def test_as_notebook_adds_a_table_that_no_exit_code_hangs_on(run: Run) -> None:
    result = run(*SMALL, "--levels", "1", "--as-notebook")

    assert result.exit_code == 0
    table = result.stdout.splitlines()[5:]
    assert table[0].split()[:3] == ["cache", "test_acc", "as"]
    assert [row.split()[0] for row in table[1:]] == ["frozen", "adapted"] * 2
    assert "The backbone in training mode" in result.stderr


def test_a_cache_that_is_there_is_compared(run: Run) -> None:
    run(*SMALL, "--levels", "1")
    [cache] = featcache.list_caches("cache")

    result = run("parity", "--cache", cache.path.name, "--weights", "random", "--levels", "1")

    assert result.exit_code == 0
    assert result.stdout.count("  holds\n") == 2
