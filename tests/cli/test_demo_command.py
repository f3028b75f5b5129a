from __future__ import annotations

import re

import pytest

import featcache
from featcache_cli.commands import demo
from tests.cli.conftest import Run


def test_demo_runs_its_commands_and_names_the_files(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # vgg16 at 64 px takes a minute; the demo has no options for it.
    monkeypatch.setattr(demo, "_BACKBONE", "mobilenet_v3_small")
    monkeypatch.setattr(demo, "_IMAGE_SIZE", 32)

    result = run("demo", "--cache-dir", "[red] here")

    assert result.exit_code == 0
    backbone, pixels = sorted(c.path for c in featcache.list_caches("[red] here"))
    runs = featcache.list_runs("runs")
    options = "--lr 0.001 --max-epochs 8 --runs-dir runs"
    commands = [line for line in result.stderr.splitlines() if line.startswith("$ ")]
    assert commands == [
        "$ featcache extract --dataset digits --backbone pixels --image-size 32 --cache-dir "
        "'[red] here'",
        "$ featcache extract --dataset digits --backbone mobilenet_v3_small --image-size 32 "
        "--weights random --cache-dir '[red] here'",
        "$ featcache cache ls --cache-dir '[red] here'",
        f"$ featcache cache info '{backbone}'",
        f"$ featcache cache verify '{pixels}'",
        f"$ featcache cache verify '{backbone}'",
        *(
            f"$ featcache train-head --cache '{path}' --reg {reg} {options}"
            for path in (pixels, backbone)
            for reg in ("none", "dropout")
        ),
        f"$ featcache eval {runs[2]}",
    ]
    assert result.stdout.count("result   sound") == 2
    assert re.search(
        r"for 2 heads of \d+ epochs together; with the backbone in the loop", result.stderr
    )
    assert "accuracies on these features would mean nothing" in result.stderr
    assert result.stdout.splitlines()[-4:] == [
        f"made   {pixels}",
        f"and    {backbone}",
        f"heads  {', '.join(map(str, runs))}",
        "next   featcache extract --dataset cifar10 --backbone vgg16",
    ]


def test_demo_commands_can_be_typed_as_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_BACKBONE", "pixels")

    shown = run("demo").stderr

    for line in shown.splitlines():
        if line.startswith(("$ featcache cache", "$ featcache train-head", "$ featcache eval")):
            assert run(*line.split()[2:]).exit_code == 0
