from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

import featcache
from tests.cli.conftest import Run
from tests.feature_caches import IDENTITY, MakeCache, learnable_rows


@pytest.fixture
def caches(make_cache: MakeCache) -> list[str]:
    """The same images through two backbones."""
    paths = [make_cache("cache/folder-toys/toy-00000000.h5")]
    train = learnable_rows(200, seed=1, unreadable=(5,))
    splits = {"train": train, "test": learnable_rows(60, seed=2)}
    for rows in splits.values():
        rows.features[:, 3:] = 0
    identity = {**IDENTITY, "backbone": "poor"}
    paths.append(make_cache("cache/folder-toys/poor-00000000.h5", splits=splits, identity=identity))
    return [*map(str, paths)]


def test_classifiers_are_a_table_and_nothing_is_written(run: Run, caches: list[str]) -> None:
    before = sorted(Path().rglob("*"))

    result = run("probe", "toy-")

    header, *lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert header.split("  ")[0] == "classifier"
    assert "test_acc" in header
    assert [line.split()[0] for line in lines] == ["majority", "ncm", "knn", "logreg"]
    assert "158 images of 3 classes fitted, 40 chose settings, 60 of split " in result.stderr
    assert sorted(Path().rglob("*")) == before
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_several_caches_stand_side_by_side_with_their_difference(
    run: Run, caches: list[str]
) -> None:
    result = run("probe", *caches)

    header, *lines = result.stdout.splitlines()
    assert "less first" in header
    assert [line.split()[:2] for line in lines[2:4]] == [
        ["ncm", "toy-00000000"],
        ["ncm", "poor-00000000"],
    ]
    assert lines[2].split()[-2:] == ["-", "-"]
    assert lines[3].split()[-4].startswith("-0.")


def test_the_curve_is_a_table_and_a_picture(run: Run, caches: list[str]) -> None:
    result = run("probe", "toy-", "--per-class", "1,4,99", "--tries", "3")

    [title] = [line for line in result.stdout.splitlines() if line.startswith("of each class")]
    assert title.split()[3:] == ["ncm", "knn", "logreg"]
    assert " ± " in result.stdout
    [png] = Path("runs").rglob("few-shot-*.png")
    assert f"pictures  {png}, " in result.stdout
    assert "--per-class 99 is left out" in result.stderr


def test_without_matplotlib_the_table_comes_with_a_note(
    run: Run, caches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )

    result = run("probe", "toy-", "--per-class", "1", "--tries", "2")

    assert result.exit_code == 0
    assert "of each class" in result.stdout
    assert "pictures" not in result.stdout
    assert "without matplotlib: pip install 'featcache[plot]'" in result.stderr
    assert not Path("runs").exists()


def test_json_and_csv_hold_the_figures(run: Run, caches: list[str]) -> None:
    answer = json.loads(run("probe", *caches, "--json").stdout)
    rows = list(csv.DictReader(run("probe", *caches, "--csv").stdout.splitlines()))

    assert [cache["backbone"] for cache in answer["caches"]] == ["toy", "poor"]
    assert answer["pictures"] == []
    told = [one["acc"]["value"] for cache in answer["caches"] for one in cache["classifiers"]]
    assert [float(row["acc"]) for row in rows] == told
    assert answer["caches"][1]["classifiers"][1]["difference"]["high"] < 0


def test_without_a_cache_the_only_one_is_taken(run: Run, caches: list[str]) -> None:
    Path(caches[1]).unlink()

    result = run("probe", "--max-rows", "30")

    assert result.exit_code == 0
    assert "the only cache that fits is taken" in result.stderr
    assert "30 of 158 training images are fitted, as asked for" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nosuch"], 10, "There is no cache 'nosuch'"),
        (["--per-class", "1;2"], 2, "must be whole numbers with commas between"),
        (["--per-class", ""], 2, "--per-class has no value"),
        (["toy-", "--json", "--csv"], 2, "--json and --csv both write to stdout"),
        (["toy-", "other-"], 12, "are not of the same images: split 'train' has 200 rows"),
    ],
)
def test_bad_input_has_its_message_and_its_code(
    run: Run, caches: list[str], make_cache: MakeCache, arguments: list[str], code: int, text: str
) -> None:
    splits = {"train": learnable_rows(30, seed=3), "test": learnable_rows(60, seed=2)}
    make_cache("cache/folder-toys/other-00000000.h5", splits=splits)

    result = run("probe", *arguments)

    assert (result.exit_code, result.stdout) == (code, "")
    assert text in result.stderr
    assert len(featcache.list_caches("cache")) == 3
