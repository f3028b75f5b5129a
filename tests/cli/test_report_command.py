"""`featcache report`, and the pages that `sweep` and `reproduce` write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import featcache
from tests.cli.conftest import Run


@pytest.fixture
def heads(run: Run) -> list[str]:
    """Two heads of digits."""
    small = ["--dataset", "digits", "--backbone", "pixels"]
    run("extract", *small, "--image-size", "8", "--limit", "100")
    for solver in ("ncm", "lda"):
        assert run("train-head", *small, "--solver", solver).exit_code == 0
    return [str(path) for path in featcache.list_runs("runs")]


def test_it_writes_a_page_and_says_where(run: Run, heads: list[str]) -> None:
    result = run("report", *heads, "--draws", "20")

    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["report"] == "report.html"
    assert lines["systems"] == "pixels-ncm, pixels-lda"
    assert lines["best"] in ("pixels-ncm", "pixels-lda")
    assert lines["runs"] == "2"
    assert Path("report.html").read_text().startswith("<!DOCTYPE html>")


def test_json_is_one_object(run: Run, heads: list[str]) -> None:
    result = run("report", "ncm", "--out", "one.html", "--no-paths", "--draws", "20", "--json")

    answer = json.loads(result.stdout)
    assert answer["path"] == str(Path.cwd() / "one.html") or answer["path"] == "one.html"
    assert answer["systems"] == ["pixels-ncm"]
    assert answer["nbytes"] == Path("one.html").stat().st_size
    assert str(Path.cwd()) not in Path("one.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 10, "There is no finished run in runs"),
        (["nosuch"], 10, "There is no run 'nosuch'"),
        (["--out", "report.pdf"], 2, "must end in .html"),
        (["--out", "mine.html"], 2, "is no page that featcache wrote"),
        (["--pdf"], 2, "apt install chromium"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(
    run: Run, arguments: list[str], code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    Path("mine.html").write_text("<html></html>")

    result = run("report", *arguments)

    assert result.exit_code == code
    assert text in result.stderr


def test_a_sweep_writes_a_page_in_which_its_best_alone_is_tested(run: Run) -> None:
    small = ["--dataset", "digits", "--backbone", "pixels"]
    run("extract", *small, "--image-size", "8", "--limit", "100")
    grid = ["--hidden", "8", "--lr", "1e-3,1e-2", "--max-epochs", "2"]

    answer = json.loads(run("sweep", *small, *grid, "--report", "--json").stdout)

    best, other = (setting["runs"][0] for setting in answer["settings"])
    page = Path(answer["report"])
    assert page == Path(answer["markdown"]).with_suffix(".html")
    assert list(Path(best).glob("eval-test.json"))
    assert not list(Path(other).glob("eval-*"))
    assert "it was not tested, as another setting was chosen" in page.read_text()


def test_reproduce_writes_a_page_of_its_systems(run: Run) -> None:
    small = ["--dataset", "digits", "--image-size", "8", "--limit", "60", "--only", "scratch-mlp"]

    result = run("reproduce", *small, "--report")

    assert result.exit_code == 0
    [page] = Path("runs/digits").glob("reproduce-*.html")
    assert result.stdout.splitlines()[-1].split() == ["report", str(page)]
    assert "pixels-none" in page.read_text()
