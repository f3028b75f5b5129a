"""Images of one's own on the command line: lists, archives, columns, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Spawn
from tests.images.containers import CONTAINERS, files_below
from tests.images.test_lists import MALFORMED

PIXELS = ["--backbone", "pixels", "--image-size", "8", "--n-workers", "0"]


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_list_ends_with_exit_2_and_its_line(
    pets: Path, run: Run, tmp_path: Path, kind: str
) -> None:
    file, content, said = MALFORMED[kind]  # of which what stands before the colon is the place
    for name, place in (("a.png", "train/dog/00.png"), ("b.png", "train/cat/01.png")):
        (tmp_path / name).write_bytes((pets / place).read_bytes())
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    result = run("extract", "--dataset", f"list:{file}", *PIXELS)

    assert result.exit_code == 2
    assert f"{file}'" in result.stderr
    assert said.partition(":")[0].replace("\\\\", "\\") in result.stderr
    assert not Path("cache").exists()


def test_columns_are_options_and_the_cache_is_found_by_the_name_that_holds_them(
    pets: Path, run: Run
) -> None:
    rows = [f"{path.relative_to(pets)},{path.parent.name}" for path in pets.rglob("*.png")]
    (pets / "own.csv").write_text("\n".join(["photo,breed", *rows]))
    columns = ["--path-column", "photo", "--label-column", "breed"]

    made = run("extract", "--dataset", "list:pets/own.csv", *columns, *PIXELS, "--json")
    trained = run(
        "train-head", "--dataset", "list:pets/own.csv#label=breed&path=photo", "--backbone",
        "pixels", "--max-epochs", "1", "--val-fraction", "0.5",
    )  # fmt: skip
    refused = run("extract", "--dataset", "folder:pets", "--label-column", "breed", *PIXELS)

    assert (made.exit_code, trained.exit_code) == (0, 0)
    assert Path(json.loads(made.stdout)["path"]).parent.name == "list-own"
    assert refused.exit_code == 2
    assert "--label-column is for list:" in refused.stderr


@pytest.mark.parametrize("container", ["zip", "Parquet"])
def test_archives_and_tables_are_extracted_with_worker_processes(
    pets: Path, run: Run, tmp_path: Path, container: str
) -> None:
    (tmp_path / "set").mkdir()
    name = CONTAINERS[container](files_below(pets), tmp_path / "set")
    workers = [*PIXELS[:-1], "2"]

    first = run("extract", "--dataset", name, *workers, "--json")
    second = run("extract", "--dataset", name, *workers, "--json")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert json.loads(first.stdout)["n_rows"] == 16
    assert json.loads(second.stdout)["outcome"] == "reused"


def test_a_file_without_its_kind_is_told_how_to_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"")

    named = run("extract", "--dataset", "pets.zip", *PIXELS)
    stray = run("extract", "pets.zip")

    assert (named.exit_code, stray.exit_code) == (2, 2)
    assert "Write it as: zip:pets.zip" in named.stderr
    assert "Did you mean --dataset zip:pets.zip?" in stray.stderr


def test_a_broken_list_is_refused_before_torch_is_imported(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,label\nno.png,x\n")
    code = (
        "import sys; from featcache_cli.app import main\n"
        "sys.argv = ['featcache', 'extract', '--dataset', 'list:l.csv']\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )

    ended = spawn(code=code)

    assert "line 2: 'no.png' does not exist" in ended.stderr
    assert ended.stdout == "False\n"
