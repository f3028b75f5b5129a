from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from featcache_cli import console
from featcache_cli.commands.extract import _shares
from featcache_cli.console import rate_of
from featcache_cli.tables import show_table


def test_progress_elsewhere_than_on_a_terminal_is_a_line_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(1, 10_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(now) / 100)
    display = console.ProgressDisplay()

    for i in range(1000):
        display.show("train", i, 1000, "[red]")

    lines = capsys.readouterr().err.splitlines()
    assert lines == ["train 500 of 1000 (50%)  [red]"]


def test_a_narrow_terminal_keeps_the_counts_of_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=50)
    monkeypatch.setattr(console, "stderr", terminal)
    display = console.ProgressDisplay()

    display.show("train", 16, 230, "[red] img/s, 2 s left, read 20% backbone 80%")
    display.show("test", 200, 230, "370 img/s, 0.1 s left, read 20% backbone 80%")
    console.reset_progress()

    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "train 16 of 230  [red] img/s, 2 s left" in shown
    assert "test 200 of 230  370 img/s" in shown


def test_a_stage_without_a_count_is_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=50)
    monkeypatch.setattr(console, "stderr", terminal)
    display = console.ProgressDisplay()

    display.show("trying engines", 0, 0)
    display.show("train", 16, 230)
    console.reset_progress()

    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "trying engines" in shown
    assert "0 of 0" not in shown
    assert "None" not in shown
    assert "train 16 of 230" in shown


def test_a_table_folds_no_name_and_has_no_codes(capsys: pytest.CaptureFixture[str]) -> None:
    path = "cache/" + "long name/" * 80 + "x.h5"

    show_table(["cache", "#rows"], [(path, 7), ("[bold]b[/bold]\x1b[31m\n", 12)])

    out = capsys.readouterr().out
    assert f"\n{path}     7\n" in out
    assert "\n[bold]b[/bold]\\x1b[31m\\n " in out
    assert "\x1b" not in out


def test_json_is_strict_and_keeps_every_name_apart(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_json({"a\udcff": Path("x\n\x1b[31m"), "names": ("\udcfe", "é", "[red]")})

    out = capsys.readouterr().out
    assert r"\udc" not in out.replace(r"\\udc", "")
    assert json.loads(out) == {
        r"a\udcff": "x\n\x1b[31m",
        "names": [r"\udcfe", "é", "[red]"],
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00342, "0.0034 s"), (42.4, "42 s"), (100, "1.7 min"), (5400, "90 min"), (9000, "2.5 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_rates_and_shares_are_short() -> None:
    assert (rate_of(29.46), rate_of(1234.5), rate_of(185000)) == (
        "29.5 img/s",
        "1,234 img/s",
        "185,000 img/s",
    )
    assert _shares({"read": 1.0, "trunk": 2.999, "write": 0.001}) == "read 25% backbone 75%"


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"loss": math.nan, "of": [math.inf, -math.inf, 0.5], "n": np.float64("nan")}

    console.show_json({"runs": [figures]})

    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "runs": [{"loss": None, "of": [None, None, 0.5], "n": None}]
    }
