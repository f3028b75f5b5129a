"""A report: one page about heads, with the figures that eval left."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache.insight.report.cache_facts import CacheFacts
from featcache.insight.report.drawn import Drawn
from featcache.insight.report.judged_run import judged
from featcache.insight.report.material import signed
from featcache.insight.report.systems import compared, systems_of
from tests.insight.pages import read
from tests.insight.reports import SECTIONS, Report, Train, anchors, words


def test_a_page_tells_all_of_two_systems_in_order(train: Train, report: Report) -> None:
    runs = [*train(seeds=2).runs, *train(reg="l2").runs]

    found = report(*(run.path for run in runs))

    said = words(found.path)
    assert anchors(found.path) == SECTIONS
    assert found.systems == ("toy-none", "toy-l2")
    assert found.best in found.systems
    assert f"{found.best} names " in said
    assert "the most of 2 systems" in said
    assert found.n_runs == 3
    assert found.nbytes == found.path.stat().st_size < 100_000
    for run in runs:
        assert str(run.path) in said
    mean = np.mean([run.test_acc for run in runs[:2]])
    assert f" {mean:.4f} " in said


def test_the_figures_are_those_that_eval_left(train: Train, report: Report) -> None:
    run = train().path
    evaluation = featcache.evaluate(run, draws=50, seed=3)
    notes: list[str] = []

    found = report(run, draws=None, on_note=notes.append)

    assert not [note for note in notes if note.startswith("evaluating")]
    estimates = (evaluation.acc, evaluation.macro_f1)
    assert all(f" {one.value:.4f} " in words(found.path) for one in estimates)
    assert f"{evaluation.acc.low:.4f} to {evaluation.acc.high:.4f}" in words(found.path)


@pytest.mark.parametrize("asked", [{"draws": 20, "seed": 3}, {"draws": 50, "seed": 4}])
def test_figures_that_were_drawn_otherwise_are_drawn_anew(
    train: Train, report: Report, cache: featcache.Cache, asked: dict[str, int]
) -> None:
    run = train(max_epochs=1).path
    featcache.evaluate(run, draws=50, seed=3)
    report(run, draws=50, seed=3)
    notes: list[str] = []

    report(run, **asked, on_note=notes.append)

    expected = featcache.evaluate(run, **asked)
    said = json.loads((run / "eval-test.json").read_text())
    facts = CacheFacts.of(cache)
    assert [note for note in notes if note.startswith("evaluating")] == [f"evaluating {run}"]
    assert (said["draws"], said["seed"]) == (asked["draws"], asked["seed"])
    assert said["acc"]["low"] == expected.acc.low
    assert facts.simple is not None
    assert facts.map is not None
    assert (facts.simple.draws, facts.simple.seed) == (asked["draws"], asked["seed"])
    assert facts.map.seed == asked["seed"]


def test_figures_of_a_version_that_did_not_say_how_they_were_drawn_are_taken(
    train: Train, report: Report
) -> None:
    run = train(max_epochs=1).path
    featcache.evaluate(run)
    file = run / "eval-test.json"
    said = json.loads(file.read_text())
    del said["draws"], said["seed"]
    file.write_text(json.dumps(said))
    notes: list[str] = []

    report(run, draws=None, on_note=notes.append)

    assert not [note for note in notes if note.startswith("evaluating")]


@pytest.mark.parametrize("harm", ["older", "cut", "other answers", "no json", "no class"])
def test_an_evaluation_that_is_not_of_the_head_is_made_again(
    train: Train, report: Report, harm: str
) -> None:
    run = train().path
    featcache.evaluate(run)
    figures, table = run / "eval-test.json", run / "predictions-test.csv"
    lines = table.read_text().splitlines()
    if harm == "older":
        os.utime(figures, ns=(1, 1))
    elif harm == "cut":
        table.write_text("\n".join(lines[:-1]))
    elif harm == "other answers":
        turned = [line.replace(",ant,ant,", ",ant,bee,") for line in lines]
        table.write_text("\n".join(turned))
    elif harm == "no json":
        figures.write_text("[" * 10_000)
    else:
        table.write_text("\n".join(line.replace(",bee,", ",wasp,") for line in lines))
    notes: list[str] = []

    report(run, on_note=notes.append)

    assert [note for note in notes if note.startswith("evaluating")] == [f"evaluating {run}"]


def test_a_head_below_the_neighbours_is_marked(train: Train, report: Report) -> None:
    good, bad = train(max_epochs=20), train(max_epochs=1, lr=1e-6)

    page = report(good.path, bad.path).path.read_text()

    rows = re.findall(r"<tr><th scope=\"row\">toy-none.*?</tr>", page)
    marked = ['class="mark">below ' in row for row in rows[:2]]
    assert marked == [False, True]
    assert "not above class means" in rows[0]  # 60 images do not tell them apart


def test_the_table_of_systems_has_no_column_that_says_nothing(train: Train, report: Report) -> None:
    runs = [*train(seeds=2).runs, *train(reg="l2", seeds=2).runs]

    page = report(*(run.path for run in runs)).path.read_text()

    table = page.partition("</table>")[0]
    titles = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", table)
    assert titles[:5] == ["system", "heads", "test_acc", "less the first", "loss"]  # and no p
    assert {row.count("<td") for row in rows} == {len(titles) - 1}
    assert re.search(r'0\.\d{4}<br><span class="muted">0\.\d{4} to \d\.\d{4}</span>', rows[0])


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "+0.0123"), (-0.5, "-0.5000"), (-0.00004, "0.0000")]
)
def test_a_difference_that_is_rounded_to_nought_has_no_sign(value: float, shown: str) -> None:
    assert signed(value) == shown


def system_of(*runs: Path, tmp_path: Path) -> Any:
    known = [
        judged(
            run,
            split=None,
            drawn=Drawn(draws=30),
            device="cpu",
            cache_dir=str(tmp_path / "cache"),
            on_note=print,
            sound=[],
        )
        for run in runs
    ]
    return systems_of(known)


def test_two_heads_are_compared_as_eval_compares_them(train: Train, tmp_path: Path) -> None:
    runs = [train(max_epochs=1).path, train(reg="l2").path]
    first, second = system_of(*runs, tmp_path=tmp_path)

    found = compared(first, second, draws=200, seed=5)

    expected = featcache.compare(*runs, draws=200, seed=5, cache_dir=tmp_path / "cache")
    assert found is not None
    assert found.p_value == expected.p_value
    assert found.difference.value == pytest.approx(expected.acc_difference.value)
    assert found.difference.low == pytest.approx(expected.acc_difference.low)
    assert found.difference.high == pytest.approx(expected.acc_difference.high)


def test_seeds_are_one_system_with_a_mean(train: Train, tmp_path: Path) -> None:
    runs = train(seeds=3).runs

    [system] = system_of(*(run.path for run in runs), tmp_path=tmp_path)

    accs = [run.test_acc for run in runs]
    assert system.acc.value == pytest.approx(np.mean(accs))
    assert system.acc.low < system.acc.value < system.acc.high
    assert compared(system, system, draws=10, seed=0).p_value is None
    assert compared(system, system, draws=10, seed=0).difference.value == 0


def test_systems_are_called_by_what_they_differ_in(train: Train, tmp_path: Path) -> None:
    runs = [
        train().path,
        train(lr=1e-3).path,
        train(hidden=()).path,
        train(reg="l2").path,
        featcache.train_head(train().cache, solver="ncm", runs_dir=tmp_path / "runs").path,
    ]

    names = [system.name for system in system_of(*runs, tmp_path=tmp_path)]

    assert names == [
        "toy-none, hidden 8, lr 0.01",
        "toy-none, hidden 8, lr 0.001",
        "toy-none, hidden none, lr 0.01",
        "toy-l2",
        "toy-ncm",
    ]


def test_pictures_stand_beside_those_of_the_nearest_image(report: Report, tmp_path: Path) -> None:
    cache = featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=300, cache_dir=tmp_path / "cache"
    ).path
    run = featcache.train_head(cache, hidden=(8,), max_epochs=1, runs_dir=tmp_path / "runs").path

    page = report(run).path.read_text()

    images = [attributes for tag, attributes in read(page).tags if tag == "img"]
    assert len(images) == 24
    assert all(str(one["src"]).startswith("data:image/png;base64,") for one in images)
    assert all(one["alt"] for one in images)
