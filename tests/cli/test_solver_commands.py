"""`train-head --solver`, and what the other commands make of such heads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import featcache
from tests.cli.conftest import Run


@pytest.fixture
def digits(run: Run) -> None:
    run("extract", "--dataset", "digits", "--backbone", "pixels", "--image-size", "8")


@pytest.mark.usefixtures("digits")
def test_it_prints_what_the_solver_found_and_the_figures_before_the_refit(run: Run) -> None:
    result = run("train-head", "--solver", "logreg", "--C", "1e-4,1e-3")

    assert result.exit_code == 0
    trained, solver, val, test = result.stdout.splitlines()
    assert trained.startswith("trained  runs/digits/pixels-logreg-")
    assert ": C 0.001, converged, n_iterations " in solver
    assert solver.endswith(", refitted")
    assert val.endswith(", before the refit")
    assert test.startswith("test     test_acc 0.")
    assert "The best C, 0.001, is at an end of those tried" in result.stderr
    assert "features standard, as is usual with --solver logreg" in result.stderr
    refused = run("eval", "--split", "val")
    assert refused.exit_code == 2
    assert "--no-refit trains a head that can be evaluated on val" in refused.stderr.replace(
        "\n", " "
    )


@pytest.mark.usefixtures("digits")
def test_scores_without_a_temperature_have_no_loss(run: Run) -> None:
    trained = run("train-head", "--solver", "ncm", "--val-fraction", "0", "--json")
    again = run("train-head", "--solver", "ncm", "--val-fraction", "0")
    evaluated = run("eval")
    listed = run("runs")

    [told] = json.loads(trained.stdout)["runs"]
    assert (told["val_loss"], told["test_loss"]) == (None, None)
    assert "val     val_acc -  val_loss -" in again.stdout
    assert again.stdout.startswith("reused")
    lines = dict(line.split(maxsplit=1) for line in evaluated.stdout.splitlines()[:12])
    assert (lines["test_loss"], lines["calibration"]) == ("-", "-")
    [row] = listed.stdout.splitlines()[1:]
    assert "  -  ncm l2  " in row
    assert run("runs", "--csv").stdout.splitlines()[0].endswith("test_loss,test_acc,seconds")


@pytest.mark.usefixtures("digits")
def test_a_sweep_of_a_solver_is_a_table(run: Run) -> None:
    result = run("sweep", "--solver", "knn", "--k", "1,5,50", "--features", "raw,l2")

    assert result.exit_code == 0
    rows = result.stdout.splitlines()
    assert len([row for row in rows if "--solver knn --features" in row]) == 7  # and the best
    assert "heads  6 finished; this call trained 6 in " in result.stdout
    assert "order-seed" not in result.stderr
    assert len(featcache.list_runs("runs")) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--solver", "svm"], "--solver is 'svm', but must be one of mlp, logreg"),
        (["--solver", "logreg", "--C", "some"], "--C is 'some', but must be numbers"),
        (["--solver", "logreg", "--C", "0"], "--C is 0, but must be a finite number above 0"),
        (["--solver", "knn", "--k", "1.5"], "--k is '1.5', but must be whole numbers"),
        (["--solver", "lda", "--seeds", "5"], "--seeds does nothing with --solver lda"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    run: Run, tmp_path: Path, words: list[str], said: str
) -> None:
    result = run("train-head", *words)

    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ")
