"""Values that nobody means end in a message and an exit code, and never in an unexpected error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run

LONG, DEEP = "n" * 300, "d/" * 2100 + "x"
TRAIN = ["train-head", "--dataset", "digits", "--backbone", "pixels", "--max-epochs", "1"]
SWEEP = ["sweep", *TRAIN[1:]]


@pytest.fixture
def digits(run: Run) -> None:
    """The cache that the commands below train on."""
    Path("FILE").write_text("no folder")
    place = ["--image-size", "8", "--limit", "20"]
    assert run("extract", "--dataset", "digits", "--backbone", "pixels", *place).exit_code == 0


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("command", [TRAIN, SWEEP], ids=["train-head", "sweep"])
@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--max-memory", "9" * 400 + "TB"], 2, "--max-memory is of 1369 bits, but must be below"),
        (["--max-memory", "9" * 40], 2, "but must be below 2**63"),
        (["--hidden", str(10**18)], 2, "has 203000000000000000010 parameters"),
        (["--hidden", str(10**9)], 2, "Nothing was started. Use a smaller --hidden."),
        (["--hidden", ",".join("1" * 65)], 2, "--hidden has 65 layers, but must have at most 64"),
        (["--batch-size", str(10**12)], 2, f"--batch-size is {10**12}, but must be at most"),
        (["--seeds", str(10**9)], 2, f"--seeds is {10**9}, but must be at most 10000"),
        (["--seed", str(2**63 - 1), "--seeds", "2"], 2, f"--seed is {2**63}, but must be below"),
        (["--reg", "l1", "--l1", "1e308"], 2, "--l1 is 1e+308, but must be below 3.4e+38"),
        (["--reg", "dropout", "--dropout", ""], 2, "--dropout has"),
        (["--runs-dir", "FILE"], 1, "Cannot write"),
        (["--runs-dir", "FILE"], 1, ". Nothing was "),
        (["--runs-dir", LONG], 2, "is no path: it has 300 bytes, 300 of them in one name"),
        (["--runs-dir", DEEP], 2, "is no path: it has 4201 bytes"),
        (["--cache-dir", LONG], 2, "is no path"),
        (["--device", "cuda:" + "9" * 40], 2, "is none of: auto, cpu, cuda, cuda:N"),
    ],
)
def test_training_answers(
    run: Run, command: list[str], options: list[str], code: int, text: str
) -> None:
    result = run(*command, *options)

    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert text in result.stderr
    assert not list(Path("runs").rglob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["extract", "--image-size", str(10**12)], 2, "--image-size is 1000000000000, but must be"),
        (["extract", "--batch-size", str(10**18)], 2, "--batch-size is 1000000000000000000, but"),
        (
            ["extract", "--max-pixels", str(2**63 - 1)],
            2,
            "--max-pixels is 9223372036854775807, but",
        ),
        (["extract", "--cache-dir", LONG], 2, "is no path"),
        (["extract", "--data-dir", LONG, "--dataset", "cifar10"], 2, "is no path"),
        (["extract", "--dataset", f"folder:{LONG}"], 2, "is no path"),
        (["extract", "--dataset", f"folder:{DEEP}"], 2, "is no path"),
        (["cache", "ls", "--cache-dir", LONG], 2, "is no path"),
        (["cache", "info", LONG], 2, "is no path"),
        (["cache", "verify", DEEP], 2, "is no path"),
        (["eval", LONG], 2, "is no path"),
        (["eval", "--runs-dir", LONG], 2, "is no path"),
        (
            ["reproduce", "--dataset", "digits", "--only", "scratch-mlp", "--runs-dir", "FILE"],
            1,
            "",
        ),
    ],
)
def test_every_command_answers(run: Run, arguments: list[str], code: int, text: str) -> None:
    Path("FILE").write_text("no folder")

    result = run(*arguments)

    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert text in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "extract --cache-dir",
        "extract --data-dir",
        "extract --weights",
        "train-head --cache",
        "train-head --runs-dir",
        "sweep --cache-dir",
        "eval --cache-dir",
        "eval --runs-dir",
        "runs --runs-dir",
        "reproduce --cache-dir",
        "parity --data-dir",
        "cache ls --cache-dir",
        "cache repair x.h5 --data-dir",
        "demo --runs-dir",
    ],
)
def test_an_empty_path_option_is_refused_by_its_name(run: Run, arguments: str) -> None:
    result = run(*arguments.split(), "")

    option = arguments.split()[-1]
    assert result.exit_code == 2
    assert f"error: {option} is empty. Nothing was started. Give a value" in result.stderr
    assert not list(Path().iterdir())


@pytest.mark.parametrize("command", ["extract", "train-head", "sweep", "parity"])
def test_backbones_with_commas_between_are_told_how_several_are_named(
    run: Run, command: str
) -> None:
    result = run(command, "--dataset", "digits", "--backbone", "vgg16,resnet18")

    assert result.exit_code == 2
    assert "--backbone is 'vgg16,resnet18', but must be one backbone." in result.stderr
    assert "--backbone vgg16 --backbone resnet18" in result.stderr
