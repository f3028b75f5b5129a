from __future__ import annotations

import json
from pathlib import Path

import pytest

import featcache
from tests.cli.conftest import Run

GRID = ["--reg", "none,l2", "--lr", "1e-3,1e-2", "--hidden", "8", "--hidden", "", "--seeds", "2"]


@pytest.fixture
def sweep(run: Run) -> list[str]:
    run("extract", "--dataset", "digits", "--backbone", "pixels", "--image-size", "8")
    return ["sweep", "--dataset", "digits", "--backbone", "pixels", "--max-epochs", "2"]


def test_it_prints_the_settings_best_first_and_tests_that_one(run: Run, sweep: list[str]) -> None:
    result = run(*sweep, *GRID)

    assert result.exit_code == 0
    rows = result.stdout.splitlines()
    assert rows[0].split() == ["val_loss", "val_acc", "epochs", "setting"]
    losses = [float(row.split()[0]) for row in rows[1:9]]
    assert losses == sorted(losses)
    assert rows[9].startswith("best   --reg ")
    assert rows[9].removeprefix("best   ") in rows[1]
    assert "test_acc" in rows[10]
    assert rows[11].startswith("heads  16 finished; this call trained 16 in ")
    assert Path(rows[12].split()[1]).read_text().startswith("| setting |")
    assert "featcache eval runs/digits/pixels-" in result.stderr
    assert len(featcache.list_runs("runs")) == 16


def test_json_is_one_object(run: Run, sweep: list[str]) -> None:
    answer = json.loads(run(*sweep, *GRID, "--json").stdout)

    assert [len(setting["runs"]) for setting in answer["settings"]] == [2] * 8
    assert answer["test_acc"]["n"] == 2


def test_it_says_on_how_many_threads_it_trains_with_devices(run: Run, sweep: list[str]) -> None:
    result = run(*sweep, "--reg", "none,l2", "--devices", "cpu:1")

    assert result.exit_code == 0
    assert "threads 1: in each process" in result.stderr or "OMP_NUM_THREADS" in result.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--lr", ""], "The grid has no setting: --lr gives none"),
        (["--max-memory", "0"], "--max-memory is '0', but must be above 0"),
        (["--max-memory", "5XB"], "--max-memory is '5XB', but must be a size like 500MB"),
        (["--lr", "fast"], "--lr is 'fast', but must be numbers"),
        (["--hidden", "8,x"], "--hidden is '8,x', but must be whole numbers"),
        (["--reg", "none,l3"], "--reg is 'l3'"),
        (["--reg", "l2", "--l1", "1e-4"], "--l1 does nothing with --reg l2"),
        (
            ["--devices", "cpu:0"],
            "--devices is 'cpu:0', but the number of devices must be 1 to 256",
        ),
        (["--devices", "cpu:2", "--device", "cpu"], "--device cpu and --devices cpu:2 both say"),
        (["--devices", "cpu:2", "--solver", "knn"], "--devices is for a sweep of MLPs"),
    ],
)
def test_bad_grids_are_exit_2(run: Run, sweep: list[str], options: list[str], text: str) -> None:
    result = run(*sweep, *options)

    assert result.exit_code == 2
    assert text in result.stderr
