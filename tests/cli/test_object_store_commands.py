"""Parts in an object store, in `extract`, the cache commands and `train-head`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.scale.moto_server import environment, moto_server

pytest.importorskip("obstore", reason="the extra cloud is not installed; `dev` has it")
pytest.importorskip("moto", reason="the imitation of S3 is not installed; `dev` has it")
pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The options that name a store of the test's own."""
    with moto_server() as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        yield ["--cache-dir", "s3://bucket/caches"]


def test_a_cache_goes_from_shares_in_a_store_to_a_trained_head(
    pixels: list[str], run: Run, small_blocks: None, store: list[str]
) -> None:
    shares = [run(*pixels, *store, "--share", f"{i}/2") for i in range(2)]
    listed = run("cache", "ls", *store, "--json")
    [parts] = json.loads(listed.stdout)["parts"]
    folder = parts["folder"]

    told, verified, lines = (run("cache", name, folder) for name in ("info", "verify", "ls"))
    trained = run("train-head", "--cache", folder, "--max-epochs", "1", "--json")
    merged = run("cache", "merge", folder, "--cache-dir", "here")
    again = run("cache", "merge", folder, "--cache-dir", "here", "--json")

    assert [result.exit_code for result in shares] == [0, 0]
    assert f"Once all shares are there: featcache cache merge {folder}" in shares[0].stderr
    assert folder.startswith("s3://bucket/caches/folder-pets/pixels-")
    assert [told.exit_code, verified.exit_code, lines.exit_code] == [0, 0, 0]
    assert "complete, 2 of 2 shares, 16 of 16 rows" in told.stdout
    assert "2 parts, 16 of 16 rows" in verified.stdout
    assert "sound" in verified.stdout
    assert lines.stdout.count("complete") == 2
    assert trained.exit_code == 0
    assert merged.exit_code == 0
    here = sorted(path.suffix for path in Path("here/folder-pets").iterdir())
    assert here == [".h5", ".lock"]
    assert json.loads(again.stdout)["outcome"] == "reused"


def test_what_is_missing_in_a_store_is_told_with_the_line_for_the_array(
    pixels: list[str], run: Run, small_blocks: None, store: list[str]
) -> None:
    share = run(*pixels, *store, "--share", "0/2", "--json")
    folder = json.loads(share.stdout)["next"].split()[-1]

    for command in ("ls", "info", "verify", "merge"):
        result = run("cache", command, folder)

        assert result.exit_code == 10, command
        assert "sbatch --array=1 with" in result.stderr
        assert "--cache-dir s3://bucket/caches --share 1/2" in result.stderr


def test_an_empty_store_names_the_command_that_fills_it(run: Run, store: list[str]) -> None:
    result = run("cache", "ls", *store)

    assert result.exit_code == 0
    assert "--cache-dir s3://bucket/caches --share 0/1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["extract", "--cache-dir", "s3://b/x"], "holds parts. Nothing was started. Add --share"),
        (["cache", "ls", "s3://bucket/x"], "is no folder of parts"),
        (["cache", "info", "s3://bucket/x/y.h5"], "is no folder of parts"),
        (["cache", "verify", "s3://bucket/d/y.parts", "--subset", "5%"], "--subset is for files"),
        (["cache", "merge", "x.parts", "--cache-dir", "y"], "--cache-dir is for parts in an"),
        (["cache", "rm", "s3://bucket/d/y.parts"], "To remove them, use the store's own tools."),
        (["train-head", "--cache", "s3://bucket/x"], "is no folder of parts"),
        (["train-head", "--cache", "s3://a:b@bucket/x"], "must not hold credentials"),
    ],
)
def test_what_a_store_does_not_have_is_refused(run: Run, arguments: list[str], told: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert told in result.stderr


def test_without_the_extra_a_url_names_the_line_that_installs_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    for arguments in (
        ["extract", "--cache-dir", "s3://bucket/x", "--share", "0/1"],
        ["cache", "ls", "--cache-dir", "gs://bucket/x"],
        ["cache", "merge", "az://bucket/d/x.parts"],
        ["train-head", "--cache", "s3://bucket/d/x.parts"],
    ):
        result = run(*arguments)

        assert result.exit_code == 2, arguments
        assert "pip install 'featcache[cloud]'" in result.stderr


def test_verify_counts_parts_of_another_numeric_class_among_those_it_read(
    pixels: list[str],
    run: Run,
    small_blocks: None,
    store: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = run(*pixels, *store, "--share", "0/2", "--json")
    folder = json.loads(share.stdout)["next"].split()[-1]
    monkeypatch.setattr("featcache.extraction.job.version", lambda _: "99.0")
    assert run(*pixels, *store, "--share", "1/2", "--mix-numerics").exit_code == 0

    verified = run("cache", "verify", folder)

    assert verified.exit_code == 12
    assert "other numerics: " in verified.stderr
    assert "2 parts, 16 of 16 rows" in verified.stdout
