from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import featcache
from featcache.training.train_result import TrainResult
from tests.cli.conftest import Run, Spawn


@pytest.fixture
def trained(tmp_path: Path) -> list[Path]:
    """Two heads on 64 digits, the first of them three days old."""
    cache = featcache.extract("digits", backbone="pixels", image_size=8, limit=64).path
    shapes = [(4,), ()]
    quick = {"lr": 1e-2, "max_epochs": 1, "patience": 0, "select": "last"}
    paths = [featcache.train_head(cache, hidden=hidden, **quick).path for hidden in shapes]
    head = paths[0] / "head.safetensors"
    os.utime(head, (head.stat().st_mtime - 3 * 86_400,) * 2)
    return paths


def test_runs_are_a_table_with_figures_settings_and_age(run: Run, trained: list[Path]) -> None:
    result = run("runs")

    header, first, second = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert header.split() == ["age", "test_acc", "val_acc", "epochs", "settings", "run"]
    test_acc = featcache.describe_runs("runs")[0].figures["test_acc"]
    assert first.split()[:5] == ["3", "days", f"{test_acc:.4f}", first.split()[3], "1"]
    assert first.split()[5:] == ["none", "lr", "0.01", "4", "seed", "0", str(trained[0])]
    assert "none lr 0.01 linear seed 0" in second


def test_runs_as_json_and_as_csv_hold_the_same(run: Run, trained: list[Path]) -> None:
    listed = json.loads(run("runs", "--json").stdout)["runs"]
    rows = list(csv.DictReader(run("runs", "--csv").stdout.splitlines()))

    assert [row["path"] for row in listed] == [str(path) for path in trained]
    assert [row["run"] for row in rows] == [str(path) for path in trained]
    assert [float(row["val_acc"]) for row in rows] == [row["figures"]["val_acc"] for row in listed]
    assert [row["hidden"] for row in rows] == ["4", ""]
    assert rows[0]["trained"] == listed[0]["trained"]
    assert [row["kept_epoch"] for row in rows] == ["1", "1"]


def test_the_table_names_the_kept_epoch_where_more_were_trained(
    run: Run, train: Callable[..., TrainResult]
) -> None:
    [trained] = train(lr=1.0, select="best").runs
    assert trained.best_epoch < 4

    _, line = run("runs").stdout.splitlines()

    assert f"  4 ({trained.best_epoch} kept)  none lr 1.0" in line


def test_a_damaged_run_stands_in_every_form(run: Run, trained: list[Path]) -> None:
    (trained[0] / "result.json").write_text("{")

    table, rows = run("runs"), list(csv.DictReader(run("runs", "--csv").stdout.splitlines()))

    assert "damaged" in table.stdout
    assert f"{trained[0]}: " in table.stderr
    assert [row["state"] for row in rows] == ["damaged", "finished"]
    assert rows[0]["val_acc"] == ""


def test_without_runs_the_command_that_makes_one_is_told(run: Run) -> None:
    result = run("runs")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "There are no runs in 'runs'. Train one with: featcache train-head" in result.stderr
    assert run("runs", "--csv").stdout == ""


@pytest.mark.parametrize("command", [["runs"], ["eval"], ["eval", "nosuchrun"]])
def test_the_command_that_trains_names_the_folder_quoted(run: Run, command: list[str]) -> None:
    result = run(*command, "--runs-dir", "my runs")

    assert " with: featcache train-head --runs-dir 'my runs'\n" in result.stderr


def test_two_forms_at_once_are_refused(run: Run) -> None:
    result = run("runs", "--json", "--csv")

    assert result.exit_code == 2
    assert "--json and --csv both write to stdout" in result.stderr


def test_listing_runs_imports_no_torch(spawn: Spawn, trained: list[Path]) -> None:
    code = (
        "import sys; from featcache_cli.app import main; sys.argv = ['featcache', 'runs']\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )

    assert spawn(code=code).stdout.splitlines()[-1] == "False"
