from __future__ import annotations

import json
from pathlib import Path

import featcache
from tests.cli.conftest import Run


def test_a_cache_is_exported_and_imported_again_byte_for_byte(run: Run) -> None:
    path = featcache.extract("digits", backbone="pixels", limit=20).path
    content = path.read_bytes()

    made = run("cache", "export", "pixels", "--format", "npz", "--out", "out/x.npz", "--json")
    path.unlink()
    again = run("cache", "import", "out/x.npz", "--json")

    assert json.loads(made.stdout)["splits"] == ["train", "test"]
    assert json.loads(again.stdout)["outcome"] == "imported"
    assert path.read_bytes() == content


def test_one_split_is_imported_with_what_it_claims(run: Run) -> None:
    path = featcache.extract("digits", backbone="pixels", limit=20).path
    run("cache", "export", str(path), "--format", "safetensors", "--out", "x.safetensors",
        "--split", "test")  # fmt: skip

    made = run("cache", "import", "x.safetensors", "--name", "part", "--json")
    told = run("cache", "info", json.loads(made.stdout)["path"])

    assert "but has just test of it: imported as it is" in made.stderr
    assert f"pixels-{path.stem[-8:]} of digits, but has just test of it" in told.stdout


def test_a_file_that_exists_is_exit_2(run: Run) -> None:
    featcache.extract("digits", backbone="pixels", limit=20)
    Path("x.npz").touch()

    result = run("cache", "export", "pixels", "--format", "npz", "--out", "x.npz")

    assert result.exit_code == 2
    assert "x.npz exists. Nothing was written." in result.stderr
