from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import featcache
from featcache.errors import UsageError
from featcache_cli.stdin_paths import paths_from
from tests.cli.conftest import Run, child_environment
from tests.deployment.heads import save_random_head

SLOWLY = ["--n-workers", "0", "--compile", "never"]


@pytest.fixture
def head(pixels: list[str], run: Run) -> Path:
    """A head on the images themselves, at 8 px."""
    assert run(*pixels).exit_code == 0
    [summary] = featcache.list_caches("cache")
    return save_random_head(summary.path, Path("runs/folder-pets/pixels-none-1")).path.parent


def written(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_is_answered_line_by_line_with_the_newest_run(head: Path, run: Run) -> None:
    result = run("predict", "pets/test", *SLOWLY, "--top", "1")

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert [line.split()[0] for line in lines] == [
        "pets/test/cat/13.png",
        "pets/test/cat/15.png",
        "pets/test/dog/12.png",
        "pets/test/dog/14.png",
    ]
    assert all(line.split()[1] in ("cat", "dog") for line in lines)
    assert "predicting by runs/folder-pets/pixels-none-1: the newest finished run" in result.stderr


def test_csv_json_lines_and_json_say_the_same(head: Path, run: Run) -> None:
    Path("pets/test/cat/bad.png").write_bytes(b"no image")

    table = run("predict", "pets/test", *SLOWLY, "--csv", "out/answers.csv")
    lines = run("predict", "pets/test", *SLOWLY, "--jsonl")
    whole = run("predict", "pets/test", *SLOWLY, "--json")

    rows = written(Path("out/answers.csv").read_text())
    of_lines = [json.loads(line) for line in lines.stdout.splitlines()]
    said = json.loads(whole.stdout)
    assert [one.exit_code for one in (table, lines, whole)] == [3, 3, 3]
    assert said["predictions"] == of_lines
    assert (said["n_images"], said["n_unreadable"], said["runs"]) == (5, 1, [str(head)])
    assert [row["image"] for row in rows] == [one["image"] for one in of_lines]
    for row, one in zip(rows, of_lines, strict=True):
        if "reason" in one:
            assert (row["reason"], row["class 1"]) == (one["reason"], "") == ("not an image", "")
            continue
        assert [row["class 1"], row["class 2"]] == one["classes"]
        assert float(row["p(class 1)"]) == pytest.approx(one["probabilities"][0], rel=1e-8)
    assert table.stdout.splitlines() == ["written  out/answers.csv", "images   5"]
    assert "unreadable: 1 of 5 images could not be read." in table.stderr


def test_several_runs_have_a_row_each(head: Path, run: Run) -> None:
    [summary] = featcache.list_caches("cache")
    save_random_head(summary.path, head.with_name("pixels-none-2"), seed=5)

    result = run("predict", "pets/test/cat/13.png", *SLOWLY, "--run", "none-1", "--run", "none-2")

    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["pets/test/cat/13.png", "pixels-none-1"],
        ["pets/test/cat/13.png", "pixels-none-2"],
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.png"], "nothing.png does not exist. Nothing was started."),
        (["cache/none"], "cache/none holds no image."),
        (["a.png", "--csv", "x.csv", "--json"], "--csv, --jsonl and --json exclude each other"),
        (["a.png", "--csv", "taken.csv"], "taken.csv exists. Nothing was started."),
        (["a.png", "-"], "- stands for all images, so it stands alone"),
        (["a.png", "-0"], "-0 is for paths on stdin"),
        (["a.png", "--top", "0"], "--top is 0, but must be at least 1"),
        (["a.png", "--below", "2"], "--below is 2, but must be above 0 and at most 1"),
        (["a.png", "--csv", ""], "--csv"),
    ],
)
def test_what_cannot_be_is_exit_2(run: Run, arguments: list[str], said: str) -> None:
    Path("cache/none").mkdir(parents=True)
    Path("taken.csv").touch()

    result = run("predict", *arguments)

    assert result.exit_code == 2
    assert said in result.stderr


def test_a_target_that_cannot_be_written_is_refused_before_the_work(run: Run) -> None:
    Path("file").touch()

    result = run("predict", "a.png", "--csv", "file/out.csv")

    assert result.exit_code == 1
    assert "Nothing was started." in result.stderr


def test_no_run_is_exit_10(run: Run, pets: Path) -> None:
    result = run("predict", "pets/test")

    assert result.exit_code == 10
    assert "There is no finished run in runs" in result.stderr


def through_a_pipe(content: bytes, ends_with: bytes) -> list[str]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(content)
    try:
        return [path for portion in paths_from(reading, ends_with=ends_with) for path in portion]
    finally:
        os.close(reading)


def test_paths_on_stdin_are_lines_of_any_bytes() -> None:
    found = through_a_pipe(b"a.png\nfolder/b c.png\n\n\xff.png", b"\n")

    assert found == ["a.png", "folder/b c.png", os.fsdecode(b"\xff.png")]


def test_with_zero_bytes_between_a_path_may_have_lines() -> None:
    assert through_a_pipe(b"a\nb.png\0c.png\0", b"\0") == ["a\nb.png", "c.png"]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_stdin_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match=r"No path came on stdin\. Nothing was started"):
        through_a_pipe(content, b"\n")


def test_what_comes_slowly_is_given_on_before_the_end() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a.png\nb.png\n")

    portions = paths_from(reading, ends_with=b"\n")
    first = next(portions)
    os.write(writing, b"c.png\n")
    os.close(writing)

    assert first == ["a.png", "b.png"]
    assert list(portions) == [["c.png"]]
    os.close(reading)


@pytest.mark.parametrize(("ends_with", "told"), [(b"\n", "a line end"), (b"\0", "a zero byte")])
def test_a_stream_without_ends_of_paths_is_refused_behind_those_before(
    tmp_path: Path, ends_with: bytes, told: str
) -> None:
    (tmp_path / "stream").write_bytes(b"a.png" + ends_with + b"x" * (3 << 19))

    with (tmp_path / "stream").open("rb") as stream:
        portions = paths_from(stream.fileno(), ends_with=ends_with)
        first = next(portions)
        with pytest.raises(UsageError, match=f"more than 1 MiB without {told}: that is no path"):
            next(portions)
        n_read = stream.tell()

    assert first == ["a.png"]
    assert n_read < 9 << 17


def test_ctrl_c_in_the_middle_leaves_valid_json_and_exit_130(head: Path) -> None:
    command = [sys.executable, "-m", "featcache_cli", "predict", "-", "--json", *SLOWLY]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment({"PYTHONUNBUFFERED": "1"}),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"pets/test/cat/13.png\npets/test/cat/15.png\n")
    child.stdin.flush()
    answered = b""
    while answered.count(b"13.png") + answered.count(b"15.png") < 2:  # stdin stays open
        answered += os.read(child.stdout.fileno(), 1 << 16)

    child.send_signal(signal.SIGINT)
    rest, told = child.communicate(timeout=60)

    said = json.loads(answered + rest)
    assert child.returncode == 130
    assert [one["image"] for one in said["predictions"]] == [
        "pets/test/cat/13.png",
        "pets/test/cat/15.png",
    ]
    assert said["n_images"] == 2
    assert b"Stopped. 2 images were answered" in told
