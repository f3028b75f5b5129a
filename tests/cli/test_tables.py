"""No line of a table passes the terminal's width, but for a path that stands last."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import featcache
from featcache_cli.app import app
from featcache_cli.tables import show_facts, show_row, show_table
from tests.conftest import save_image

Shown = Callable[..., list[str]]
LONG = "photographs of the animals-of-the-house-and-the-farm-" + 12 * "and-more-"
CLASSES = ("a " * 30 + "cat", "b" * 90, "犬" * 50)


class Terminal(io.StringIO):
    """A stdout that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Do something on a terminal of 80 columns, and take its lines."""
    monkeypatch.setenv("COLUMNS", "80")

    def shown(do: Callable[..., object], *arguments: object, **options: object) -> list[str]:
        with contextlib.redirect_stdout(Terminal()) as terminal:
            do(*arguments, **options)
        return terminal.getvalue().splitlines()

    return shown


def too_long(lines: list[str]) -> list[str]:
    """The lines of more than 80 columns that do not end in a path which begins before."""
    return [
        line
        for line in lines
        if sum(1 + ("\u2e80" < c < "\uffff") for c in line) > 80
        and not ("/" in line[80:] and "  " not in line[80:])
    ]


def test_long_names_are_folded_in_every_table(shown: Shown, tmp_path: Path) -> None:
    for split, n in (("train", 4), ("test", 2)):
        for i in range(n * 3):
            save_image(tmp_path / LONG / split / CLASSES[i % 3] / f"{i}.png", i)
    images = ["--dataset", f"folder:{LONG}", "--backbone", "pixels"]
    training = ["--val-fraction", "0.4", "--max-epochs", "1"]
    commands = [
        ["extract", *images, "--image-size", "8", "--n-workers", "0"],
        ["cache", "ls"],
        ["cache", "info", "pixels"],
        ["cache", "verify", "pixels"],
        ["train-head", "--cache", "pixels", "--hidden", "50,40,30,20,10,9,8,7", *training],
        [
            "sweep",
            "--cache",
            "pixels",
            "--lr",
            "1e-3,1e-2",
            "--hidden",
            "50,40,30,20,10,9,8,7",
            *training,
        ],
        ["runs"],
        ["eval"],
        ["datasets"],
        ["version"],
    ]

    run = partial(shown, app, standalone_mode=False)

    answers = {" ".join(command[:2]): run(command) for command in commands}
    first, second, *_ = featcache.list_runs("runs")
    answers["eval A B"] = run(["eval", str(first), str(second)])

    assert {name: too_long(lines) for name, lines in answers.items()} == {
        name: [] for name in answers
    }
    assert all(map(len, answers.values()))
    [path] = [line for line in answers["cache ls"] if line.endswith(".h5")]
    assert path.endswith(str(featcache.list_caches("cache")[0].path))


def test_the_widest_columns_give_way_and_nothing_is_lost(shown: Shown) -> None:
    rows = [("x" * 100, 12345, "one two " * 20), ("y", 7, "z")]

    lines = shown(show_table, ["name", "#n", "words"], rows)

    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("x") == 100
    assert "".join(lines).count("two") == 20
    assert [line for line in lines if "12345" in line] == lines[1:2]


def test_a_value_goes_on_below_its_beginning_and_a_path_in_one_piece(shown: Shown) -> None:
    path = Path("runs/" + "long name " * 12 + "end")

    *folded, last = shown(show_facts, {"saves": "an epoch " * 12, "run": path})

    assert len(folded) == 2
    assert folded[1].startswith(" " * 7 + "a")
    assert max(map(len, folded)) <= 80
    assert last == f"run    {path}"


@pytest.mark.parametrize("value", ["ab" * 32, Path("runs/" + "a name/" * 9)])
def test_a_hash_or_path_without_room_behind_its_name_has_a_line_of_its_own(
    shown: Shown, value: object
) -> None:
    lines = shown(show_facts, {"a name of some length": value, "n": 1})

    assert lines == ["a name of some length", f"  {value}", "n                      1"]


def test_the_last_column_of_a_row_takes_what_is_left(shown: Shown) -> None:
    cells = ("vit_b_16", 768, "SWAG " * 30)

    lines = shown(show_row, cells, (18, 8), are_numbers=(False, True, False))

    assert lines[0].startswith(f"vit_b_16{768:>20}  SWAG SWAG")
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("SWAG") == 30


def test_in_a_pipe_a_row_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["name", "words"], [("x" * 100, "one two " * 20)])

    assert len(capsys.readouterr().out.splitlines()) == 2
