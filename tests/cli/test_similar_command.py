from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.conftest import save_image
from tests.feature_caches import MakeCache


@pytest.fixture(autouse=True)
def _caches(make_cache: MakeCache) -> None:
    make_cache()
    save_image(Path("new.png"), 1)


def test_neighbours_are_a_table(run: Run) -> None:
    result = run("similar", "test:7", "-k", "4")

    header, *lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert header.split() == ["cosine", "split", "row", "class", "id"]
    assert len(lines) == 4
    assert [float(line.split()[0]) for line in lines] == sorted(
        (float(line.split()[0]) for line in lines), reverse=True
    )
    assert "7 (test row 7, class bee) was compared with 257 rows" in result.stderr


def test_json_holds_all_of_it(run: Run) -> None:
    answer = json.loads(run("similar", "test:7", "--k", "2", "--split", "train", "--json").stdout)

    assert (answer["image"], answer["split"], answer["n_rows"]) == ("7", "test", 198)
    assert [set(one) for one in answer["neighbours"]] == [
        {"split", "row", "id", "label", "similarity", "is_same_image"}
    ] * 2
    assert answer["page"] is None


def test_the_page_is_named(run: Run) -> None:
    result = run("similar", "test:7", "--out", "pages/page.html")

    assert result.stdout.splitlines()[-1] == "page  pages/page.html"
    assert Path("pages/page.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "Missing argument 'IMAGE|ID'"),
        (["7"], 2, "is an id in several splits"),
        (["nosuch"], 2, "There is no file 'nosuch'"),
        (["test:7", "-k", "0"], 2, "--k is 0, but must be at least 1"),
        (["test:7", "-k", "x"], 2, "--k is 'x', but must be a whole number"),
        (["test:7", "--split", "tset"], 2, "Unknown split 'tset'"),
        (["test:7", "--cache", "nosuch"], 10, "There is no cache 'nosuch'"),
        (["test:7", "--out", "new.png"], 2, "must end in .html"),
        (["new.png"], 13, "does not say its layer, weights_sha256, preprocess"),
    ],
)
def test_bad_input_has_its_message_and_its_code(
    run: Run, arguments: list[str], code: int, text: str
) -> None:
    result = run("similar", *arguments)

    assert (result.exit_code, result.stdout) == (code, "")
    assert text in result.stderr
