from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def audited(pets: Path, pixels: list[str], run: Run) -> Path:
    """A cache of images of which one of test is in train too, and one is damaged."""
    (pets / "test/cat/copy.png").write_bytes((pets / "train/cat/01.png").read_bytes())
    (pets / "train/dog/02.png").write_bytes(b"damaged")
    assert run(*pixels).exit_code == 3
    return pets


def test_what_was_found_is_told_in_tables(run: Run, audited: Path) -> None:
    result = run("audit", "pixels")

    assert result.exit_code == 0
    facts = dict(line.split(None, 1) for line in result.stdout.splitlines() if "  " in line)
    assert facts["images"] == "train 11, test 5"
    assert facts["duplicates"] == "1 exact, 0 near pairs"
    assert "1 of 5 images" in result.stdout
    assert "train train/cat/01.png" in result.stdout
    assert "test test/cat/copy.png" in result.stdout
    assert "not an image" in result.stdout
    assert "1 of 5 images of 'test' is in 'train' too" in result.stderr


def test_json_and_csv_hold_the_findings(run: Run, audited: Path) -> None:
    answer = json.loads(run("audit", "pixels", "--json").stdout)
    rows = list(csv.DictReader(run("audit", "pixels", "--csv").stdout.splitlines()))

    [pair] = answer["duplicates"]
    assert (pair["kind"], pair["first"]["split"], pair["second"]["split"]) == (
        "exact",
        "train",
        "test",
    )
    assert pair["second"]["id"] == "test/cat/copy.png"
    assert answer["in_train"] == {"test": 1}
    told = [row["finding"] for row in rows]
    expected = ["duplicate"] * len(answer["duplicates"])
    expected += ["label_issue"] * len(answer["label_issues"])
    expected += ["outlier"] * len(answer["outliers"]) + ["unreadable"]
    assert told == expected
    assert rows[0]["other_id"] == "test/cat/copy.png"
    assert rows[-1]["reason"] == "not an image"


def test_the_list_is_told_and_extract_takes_it(run: Run, audited: Path, pixels: list[str]) -> None:
    result = run("audit", "pixels", "--write-list", "keep.csv")

    assert result.exit_code == 0
    assert "keep.csv (15 images)" in result.stdout
    pixels[pixels.index("--dataset") + 1] = "list:keep.csv"
    again = run(*pixels, "--json")
    assert (again.exit_code, json.loads(again.stdout)["n_rows"]) == (0, 15)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nosuch"], 10, "There is no cache 'nosuch'"),
        (["pixels", "--top", "0"], 2, "--top"),
        (["pixels", "--json", "--csv"], 2, "--json and --csv both write to stdout"),
        (["pixels", "--run", "nosuch"], 10, "There is no run 'nosuch'"),
        (["pixels", "--write-list", "pets"], 2, "something lies there already"),
        (["pixels", "--write-list", ""], 2, "--write-list is empty"),
    ],
)
def test_bad_input_has_its_message_and_its_code(
    run: Run, audited: Path, arguments: list[str], code: int, text: str
) -> None:
    result = run("audit", *arguments)

    assert (result.exit_code, result.stdout) == (code, "")
    assert text in result.stderr
