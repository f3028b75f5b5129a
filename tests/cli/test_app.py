from __future__ import annotations

import inspect
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

import featcache
from featcache.config import ForecastSpec, ShareSpec
from featcache.core.options import declared
from featcache_cli.app import app
from tests.cli.conftest import Run, Spawn, child_environment

SLOW = ("torch", "torchvision", "h5py", "PIL", "numpy", "pytorch_lightning")
IMPORTED = """
import sys
from featcache_cli.app import app
app(sys.argv[1:], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""
BROKEN = """
import sys, featcache
def broken(**_):
    raise ZeroDivisionError("first line\\nsecond line")
featcache.list_datasets = broken
from featcache_cli.app import main
sys.argv = ["featcache", "datasets"]
main()
"""


def options_of(*command: str) -> dict[str, Any]:
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    return {param.name: param for param in found.params if param.name not in ("help", "json")}


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_every_command(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.exit_code == 0
    for command in ("extract", "cache", "datasets", "backbones", "demo"):
        assert f"\n  {command} " in result.stdout
    assert "..." not in result.stdout.partition("Commands:")[2].partition("options:")[0]


def test_no_arguments_show_the_help(run: Run) -> None:
    result = run()

    assert result.exit_code == 0
    assert "Commands:" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    "command",
    [["extract"], ["cache"], ["cache", "rm"], ["datasets"], ["backbones"], ["demo"]],
)
def test_every_command_has_help(run: Run, command: list[str]) -> None:
    result = run(*command, "-h")

    assert result.exit_code == 0
    assert f"Usage: featcache {' '.join(command)} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "commands"), [(["--help"], []), (["version", "--help"], ["about"])]
)
def test_help_imports_nothing_slow_and_no_command_but_the_one_that_is_asked_for(
    spawn: Spawn, arguments: list[str], commands: list[str]
) -> None:
    finished = spawn(*arguments, code=IMPORTED)

    imported = finished.stderr.split()
    assert "Usage: " in finished.stdout
    place = "featcache_cli.commands."
    assert [n.removeprefix(place) for n in imported if n.startswith(place)] == commands
    assert not {*SLOW} & {*imported}


def test_the_help_of_all_says_of_a_command_what_its_own_begins_with(run: Run) -> None:
    root: Any = typer.main.get_command(app)

    listed = " ".join(run("--help").stdout.split())

    for name, command in root.commands.items():
        assert f" {name} {command.get_short_help_str(200)} " in listed


def test_help_takes_less_than_half_a_second_of_cpu(spawn: Spawn) -> None:
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        spawn("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    assert min(seconds) < 0.5


def test_version_is_the_package_version(run: Run) -> None:
    result = run("--version")

    assert (result.exit_code, result.stdout) == (0, f"featcache {featcache.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["extrct"], "No such command 'extrct'. Did you mean 'extract', 'export'?"),
        (["cache", "verfy"], "No such command 'verfy'. Did you mean 'verify'?"),
        (["extract", "--bakbone", "x"], "No such option: --bakbone. Did you mean --backbone"),
        (
            ["probe", "--cache", "my cache.h5"],
            "featcache probe takes the cache as an argument: featcache probe 'my cache.h5'",
        ),
        (["audit", "--cache=X"], "takes the cache as an argument: featcache audit X"),
        (["eval", "--run"], "takes the run as an argument: featcache eval RUN"),
        (
            ["extract", "--image-size", "big"],
            "--image-size is 'big', but must be a whole number or auto.",
        ),
        (["extract", "--limit", "1.5"], "--limit is '1.5', but must be a whole number."),
        (["train-head", "--l1", "much"], "--l1 is 'much', but must be a number."),
        (["extract", "--image-size", "9" * 5000], "--image-size is '999"),
        (["cache", "info"], "Missing argument 'cache'."),
        (["extract", "cifar10"], "has no use for 'cifar10'. Did you mean --dataset cifar10?"),
        (["extract", "Digits"], "has no use for 'Digits'. Did you mean --dataset Digits?"),
        (["train-head", "vgg16"], "has no use for 'vgg16'. Did you mean --backbone vgg16?"),
        (["sweep", "x/y.h5"], "has no use for 'x/y.h5'. Did you mean --cache x/y.h5?"),
        (["extract", "."], "has no use for '.'. Did you mean --dataset folder:.?"),
        (["datasets", "digits"], "featcache datasets has no use for 'digits'.\n"),
    ],
)
def test_a_mistyped_command_line_is_exit_2(run: Run, arguments: list[str], text: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert result.stdout == ""


def test_a_hint_quotes_a_path_with_a_space(run: Run) -> None:
    Path("my pets").mkdir()

    result = run("extract", "my pets")
    named = run("extract", "--dataset", "my pets")

    assert "has no use for 'my pets'. Did you mean --dataset 'folder:my pets'?" in result.stderr
    assert "Write it as: 'folder:my pets'" in named.stderr


OF_OTHER_FUNCTIONS = ("devices", "plan", *declared(ShareSpec), *declared(ForecastSpec))
"""Options of `extract` that say that another function is called, and how."""


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("extract", featcache.extract),
        ("train-head", featcache.train_head),
        ("reproduce", featcache.reproduce),
        ("parity", featcache.parity),
        ("sweep", featcache.sweep),
    ],
)
def test_options_are_the_keywords_of_the_library(
    command: str, function: Callable[..., object]
) -> None:
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if not name.startswith("on_")
    }
    options = options_of(command)
    options.pop("report", None)  # a page beside the table, which another function writes
    for name in OF_OTHER_FUNCTIONS if command == "extract" else ():
        del options[name]

    assert list(options) == list(keywords)
    for name, option in options.items():
        letter = [f"-{name}"] if len(name) == 1 else []
        assert option.opts == [f"--{name.replace('_', '-')}", *letter]
        if keywords[name] is None:
            assert option.default in ("auto", None)
        elif option.multiple and isinstance(keywords[name], str):
            assert option.default == [keywords[name]]
        elif keywords[name] == ():
            assert option.default is None
        elif isinstance(keywords[name], tuple):
            texts = [_typed(value) for value in keywords[name]]
            assert option.default in (",".join(texts), texts)
        else:
            assert option.default == keywords[name]


@pytest.mark.parametrize(
    ("command", "functions"),
    [
        (["cache", "ls"], [featcache.list_caches, featcache.describe_parts]),
        (["cache", "merge"], [featcache.merge_parts]),
        (["cache", "info"], [featcache.find_cache]),
        (["cache", "verify"], [featcache.verify_cache, featcache.verify_images]),
        (["cache", "repair"], [featcache.repair_cache]),
        (["cache", "rm"], [featcache.find_cache]),
        (["datasets"], [featcache.list_datasets]),
        (["backbones"], [featcache.list_backbones]),
        (["eval"], [featcache.evaluate]),
    ],
)
def test_options_of_a_command_are_keywords_of_its_functions(
    command: list[str], functions: list[Callable[..., object]]
) -> None:
    options = options_of(*command)
    # A file is an argument, found by its name below --cache-dir; a filter of names is one too. The
    # others say whether a function is called at all.
    other = {"cache", "cache_dir", "name", "yes", "runs", "plot", "images", "layers"}

    keywords = {name for one in functions for name in inspect.signature(one).parameters}
    assert set(options) - other <= keywords
    of_python = {"path", "name", "names", "run", "on_progress", "on_note", "reads_rows"}
    missing = keywords - set(options) - of_python
    assert missing == set()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("MemoryError()", 16, "No memory is left: the system gives no more. What is finished"),
        (
            'OSError(28, "No space left on device", "x.png")',
            14,
            "No space left while writing x.png",
        ),
        ('OSError(28, "No space left on device")', 14, "No space left: No space left on device"),
        ('OSError(5, "Input/output error", "x.png")', 1, "The system refuses x.png: Input/output"),
    ],
)
def test_what_the_machine_lacks_has_a_message_and_a_code(
    spawn: Spawn, error: str, code: int, said: str
) -> None:
    finished = spawn(code=BROKEN.replace('ZeroDivisionError("first line\\nsecond line")', error))

    assert finished.returncode == code
    assert finished.stderr.startswith(f"error: {said}")


def test_an_unexpected_error_is_one_line_and_a_hint(spawn: Spawn) -> None:
    finished = spawn(code=BROKEN)

    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.splitlines() == [
        "unexpected error: ZeroDivisionError: first line",
        "hint: Run again with FEATCACHE_DEBUG=1 for the traceback.",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("cache", "info", "~nosuchuser/x.h5"),
        ("cache", "ls", "--cache-dir", "~nosuchuser/cache"),
        ("eval", "~nosuchuser/run"),
        ("extract", "--dataset", "folder:~nosuchuser/pets", "--backbone", "pixels"),
        ("extract", "--dataset", "cifar10", "--data-dir", "~nosuchuser", "--backbone", "pixels"),
    ],
)
def test_the_home_of_nobody_is_a_path_like_any_other(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)

    assert result.exit_code != 1
    assert "unexpected error" not in result.stderr
    assert "~nosuchuser" in result.stderr


def test_debug_shows_the_traceback_of_any_error(spawn: Spawn) -> None:
    unexpected = spawn(code=BROKEN, FEATCACHE_DEBUG="1")
    expected = spawn("cache", "info", "nix", FEATCACHE_DEBUG="1")

    assert unexpected.returncode == 1
    assert "Traceback" in unexpected.stderr
    assert "second line" in unexpected.stderr
    assert expected.returncode == 10
    assert "Traceback" in expected.stderr
    assert "error: There is no cache 'nix'" in expected.stderr


@pytest.mark.parametrize("command", ["datasets", "datasets --json", "help extract", "version"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_went_away_is_no_error(command: str, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    try:
        finished = subprocess.run(
            [sys.executable, "-m", "featcache_cli", *command.split()],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment({"PYTHONUNBUFFERED": unbuffered}),
            check=False,
        )
    finally:
        os.close(writing)

    assert (finished.returncode, finished.stderr) == (0, "")


def test_a_terminal_that_is_not_utf_8_shows_names_escaped(
    run: Run, pixels: list[str], spawn: Spawn
) -> None:
    folder = ["--cache-dir", "café"]
    run(*pixels, *folder)

    listed = spawn("cache", "ls", *folder, PYTHONIOENCODING="ascii")
    missed = spawn("cache", "info", "nix", *folder, PYTHONIOENCODING="ascii")

    assert (listed.returncode, missed.returncode) == (0, 10)
    assert r"caf\xe9/folder-pets/pixels-" in listed.stdout
    assert r"nor in 'caf\xe9'" in missed.stderr


def _typed(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
