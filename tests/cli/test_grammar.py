"""Manners: groups of options, quiet and full speech, help, versions, completion, any case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

import featcache
from featcache_cli.app import app
from featcache_cli.grammar import headings
from tests.cli.conftest import Run, Spawn


def every_command() -> list[Any]:
    found: Any = typer.main.get_command(app)
    groups = [getattr(c, "commands", {name: c}).values() for name, c in found.commands.items()]
    return [command for group in groups for command in group]


def alone() -> typer.Typer:
    made = typer.Typer(add_completion=False)

    @made.command()
    def command(lonely: str = "") -> None: ...

    return made


def completed(run_name: str, option: str, incomplete: str, **before: Any) -> list[str]:
    [command] = [command for command in every_command() if command.name == run_name]
    [param] = [param for param in command.params if option in (*param.opts, param.name)]
    ctx = command.make_context(run_name, [], resilient_parsing=True)
    ctx.params.update(before)
    return [item.value for item in param.shell_complete(ctx, incomplete)]


@pytest.mark.parametrize("command", every_command(), ids=lambda command: command.name)
def test_every_option_stands_in_a_group_whose_example_works(command: Any) -> None:
    ctx = command.make_context(command.name, [], resilient_parsing=True)
    options = [p for p in command.get_params(ctx) if p.param_type_name == "option"]

    groups = headings(options)

    assert "Other options" not in groups
    for heading, members in groups.items():
        used = {word for word in heading.split() if word.startswith("--")}
        assert used
        assert used <= {name for param in members for name in param.opts}
    assert list(groups)[-1] == "Output, as in --quiet"


def test_an_option_that_says_no_group_stands_apart() -> None:
    [param] = typer.main.get_command(alone()).params[:1]

    assert list(headings([param])) == ["Other options"]


@pytest.mark.parametrize("command", [["cache"], ["cache", "verify"], ["extract"]])
def test_help_is_a_command_too(run: Run, command: list[str]) -> None:
    asked, usual = run("help", *command), run(*command, "--help")

    assert (asked.exit_code, asked.stdout) == (0, usual.stdout)


def test_help_for_no_command_is_told(run: Run) -> None:
    result = run("help", "extrct")

    assert result.exit_code == 2
    assert "No such command 'extrct'. Did you mean 'extract', 'export'?" in result.stderr


def test_a_group_alone_shows_its_help_and_ends_well(run: Run) -> None:
    result = run("cache")

    assert result.exit_code == 0
    assert "verify" in result.stdout


def test_version_names_what_decides_results(run: Run) -> None:
    versions = json.loads(run("version", "--json").stdout)

    assert versions["featcache"] == featcache.__version__
    assert versions["torch"] == torch.__version__  # with its build
    assert versions.keys() >= {"python", "torch", "torchvision", "pytorch-lightning", "h5py"}
    assert f"featcache          {featcache.__version__}" in run("version").stdout


def test_quietly_only_results_are_said(run: Run, pixels: list[str]) -> None:
    quiet, usual = run(*pixels, "-q"), run(*pixels)

    assert quiet.exit_code == 0
    assert quiet.stderr == ""
    assert quiet.stdout.startswith("computed  ")
    assert usual.stderr != ""  # the next command speaks again


def test_quietly_errors_are_said(run: Run) -> None:
    result = run("--quiet", "cache", "info", "nothing")

    assert result.exit_code == 10
    assert result.stderr.startswith("error: There is no cache 'nothing'")


def test_fully_each_line_has_its_time_and_an_error_its_origin(run: Run, pixels: list[str]) -> None:
    told = run(*pixels, "-v")
    failed = run("-v", "cache", "info", "nothing")

    assert all(line.split()[1] == "s" for line in told.stderr.splitlines())
    assert "Traceback" in failed.stderr
    assert "error: There is no cache 'nothing'" in failed.stderr


def test_names_are_taken_in_any_case(run: Run, pixels: list[str]) -> None:
    usual = json.loads(run(*pixels, "--json").stdout)
    shouted = [word.upper() if word == "pixels" else word for word in pixels]
    train = ["train-head", "--max-epochs", "1", "--val-fraction", "0.5", "--json"]

    again = json.loads(run(*shouted, "--bn", "Frozen", "--device", "CPU", "--json").stdout)
    heads = [json.loads(run(*train, "--reg", reg).stdout)["runs"][0] for reg in ("l2", "L2")]

    assert (again["outcome"], again["path"]) == ("reused", usual["path"])
    assert [head["outcome"] for head in heads] == ["trained", "reused"]
    assert heads[0]["path"] == heads[1]["path"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "--backbone", "VGG61"],
        ["extract", "--dataset", "CIFAR11"],
        ["extract", "--weights", "imagenet1k_v9"],
        ["train-head", "--reg", "L3"],
    ],
)
def test_a_wrong_name_in_capitals_is_told_as_it_was_typed(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert "Did you mean" in result.stderr


def test_values_are_completed(cache_file: Path, run: Run) -> None:
    run("train-head", "--max-epochs", "1", "--val-fraction", "0.5")
    name = f"{cache_file.parent.name}/{cache_file.name}"
    [head] = featcache.list_runs("runs")

    assert completed("extract", "--backbone", "mobilenet_v3") == [
        "mobilenet_v3_large",
        "mobilenet_v3_small",
    ]
    assert completed("extract", "--dataset", "cifar") == ["cifar10", "cifar100"]
    assert completed("extract", "--dataset", "folder:pe") == ["folder:pets"]
    assert completed("extract", "--weights", "IMA", backbone=["resnet50"]) == [
        "IMAGENET1K_V2",
        "IMAGENET1K_V1",
    ]
    assert completed("sweep", "--reg", "none,l1") == ["none,l1", "none,l1l2"]
    assert completed("train-head", "--cache", "folder") == [name]
    assert completed("verify", "cache", "") == [name]
    assert completed("eval", "runs", "folder") == [f"folder-pets/{head.name}"]


def test_a_shell_asks_for_completion_in_a_process_of_its_own(spawn: Spawn) -> None:
    finished = spawn(
        code="import sys; sys.argv = ['featcache']; from featcache_cli.app import main; main()",
        _FEATCACHE_COMPLETE="complete_bash",
        COMP_WORDS="featcache extract --backbone wide",
        COMP_CWORD="3",
    )

    assert finished.stdout.split() == ["wide_resnet101_2", "wide_resnet50_2"]
