"""Names of files, folders and classes are shown escaped, whatever bytes they hold."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from pathlib import Path

import pytest

import featcache
from tests.cli.conftest import Run, Spawn
from tests.conftest import save_image

# A newline, a terminal's title and colour, bytes that are not UTF-8, rich's markup, a bidi control.
CLASSES = ["ca\nt", "d\x1b]0;title\x07\x1b[31mg", "f\udcffsh", "[bold]ox[", "e\u202egg"]
FOLDER = "p[red]ts\x1b[2J\udcfe"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other file systems refuse such names"
)


@pytest.fixture
def hostile() -> str:
    for i, name in enumerate(CLASSES):
        save_image(Path(FOLDER) / name / f"{i}\x1b[0m[red].png", i)
    (Path(FOLDER) / CLASSES[2] / "em\npt\udcffy[.png").touch()
    return f"folder:{FOLDER}"


def is_harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def test_extract_and_info_show_hostile_names_escaped(run: Run, hostile: str) -> None:
    place = ["--image-size", "8", "--n-workers", "0"]

    extracted = run("extract", "--dataset", hostile, "--backbone", "pixels", *place)
    [cache] = featcache.list_caches("cache")
    info = run("cache", "info", str(cache.path))
    listed = run("cache", "ls")

    assert (extracted.exit_code, info.exit_code, listed.exit_code) == (3, 0, 0)
    assert all(is_harmless(result.output) for result in (extracted, info, listed))
    unreadable = r"train f\udcffsh/em\npt\udcffy[.png: empty file"
    assert unreadable in extracted.stderr
    assert unreadable in info.stderr
    assert r"[bold]ox[, ca\nt, d\x1b]0;title\x07\x1b[31mg, e\u202egg, f\udcffsh" in info.stdout
    assert r"folder:p[red]ts\x1b[2J\udcfe" in listed.stdout


def test_json_of_hostile_names_is_strict(run: Run, hostile: str) -> None:
    place = ["--image-size", "8", "--n-workers", "0"]

    extracted = run("extract", "--dataset", hostile, "--backbone", "pixels", *place, "--json")
    [cache] = featcache.list_caches("cache")
    info = run("cache", "info", str(cache.path), "--json")
    listed = run("cache", "ls", "--json")

    for result in (extracted, info, listed):
        assert is_harmless(result.stdout)
        json.loads(result.stdout).__str__().encode()  # no lone surrogate anywhere
    assert json.loads(info.stdout)["class_names"][1:3] == CLASSES[:2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "--dataset", FOLDER],
        ["extract", "--dataset", f"folder:{FOLDER}/nix"],
        ["extract", "--dataset", f"torchvision:{FOLDER}"],
        ["extract", "--backbone", FOLDER],
        ["extract", "--weights", FOLDER, "--dataset", "digits"],
        ["extract", "--weights", f"./{FOLDER}.pth", "--dataset", "digits"],
        ["extract", "--bn", FOLDER],
        ["extract", "--batch-size", FOLDER],
        ["extract", "--image-size", "[red]\x1b[31m"],
        ["extract", FOLDER],
        ["extract", f"--{FOLDER}"],
        [FOLDER],
        ["backbones", FOLDER],
        ["cache", "info", FOLDER],
        ["cache", "info", "x", "--cache-dir", FOLDER],
        ["cache", "verify", "x", "--subset", FOLDER],
    ],
)
def test_hostile_arguments_are_refused_and_shown_escaped(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.exit_code in (2, 10)
    assert is_harmless(result.output)
    assert result.stderr != ""


def test_a_hostile_cache_folder_works(run: Run) -> None:
    folder = ["--cache-dir", FOLDER]

    extracted = run("extract", "--dataset", "digits", "--backbone", "pixels", *folder)
    removed = run("cache", "rm", "digits", *folder, answers="y\n")

    assert (extracted.exit_code, removed.exit_code) == (0, 0)
    assert is_harmless(extracted.output + removed.output)
    assert r"p[red]ts\x1b[2J\udcfe/digits/pixels-" in removed.stdout


def test_bytes_that_are_not_utf_8_arrive_from_a_real_shell(spawn: Spawn) -> None:
    finished = spawn("cache", "ls", "--cache-dir", os.fsdecode(b"\xff\x1b[31m"))

    assert finished.returncode == 0
    assert r"There are no caches in '\udcff\x1b[31m'." in finished.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["extract", "--dataset", "folder:s3://bucket/pets"],
        ["extract", "--dataset", "digits", "--backbone", "pixels", "--cache-dir", "hf://b/x"],
        ["extract", "--data-dir", "gs://b/x"],
        ["extract", "--weights", "s3://b/w.pth"],
        ["train-head", "--cache", "hf://b/x.h5"],
        ["train-head", "--cache-dir", "s3:/b/x"],
        ["train-head", "--runs-dir", "s3://b/x"],
        ["train-head", "--dataset", "folder:s3://bucket/pets"],
        ["sweep", "--runs-dir", "file:///x"],
        ["eval", "s3://b/run"],
        ["eval", "--cache", "s3://b/x.h5"],
        ["eval", "--runs-dir", "s3://b/x"],
        ["reproduce", "--runs-dir", "s3://b/x"],
        ["reproduce", "--data-dir", "s3://b/x"],
        ["parity", "--cache-dir", "s3://b/x"],
        ["cache", "ls", "--cache-dir", "hf://b/x"],
        ["cache", "rm", "s3://b/x.h5"],
        ["sweep", "--cache", "s3://b/x.parts"],
        ["cache", "import", "s3://b/x.h5", "--features", "f", "--labels", "l"],
        ["datasets", "--data-dir", "https://host/x"],
    ],
)
def test_a_url_in_the_place_of_a_path_is_refused_and_makes_no_folder(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    result = run(*command)

    assert (result.exit_code, result.stdout) == (2, "")
    assert re.search("is a URL|is in an object store", result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_system_refuses_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "data/loop")

    monkeypatch.setattr(featcache, "list_datasets", refused, raising=False)

    result = run("datasets")

    assert result.exit_code == 1
    assert result.stderr == (
        "error: The system refuses data/loop: Too many levels of symbolic links (errno 40).\n"
    )


@pytest.mark.parametrize("size", ["0", "9999999999999999999", "20000"])
def test_an_image_size_that_no_backbone_takes_is_a_usage_error(run: Run, size: str) -> None:
    result = run("backbones", "squeezenet1_1", "--image-size", size)

    assert result.exit_code == 2
    assert "--image-size is " in result.stderr


@pytest.mark.parametrize(
    "places",
    [
        ["--cache-dir", "loop"],
        ["--dataset", "folder:loop"],
        ["--data-dir", "loop", "--dataset", "cifar10"],
    ],
)
def test_links_that_lead_in_a_circle_are_named(
    run: Run, pixels: list[str], tmp_path: Path, places: list[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")

    result = run(*pixels, *places)

    assert result.exit_code != 0
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "loop" in result.stderr.splitlines()[-1]
    assert "unexpected" not in result.stderr
