"""`extract --share`, `extract --plan`, `cache merge`, and folders of parts in other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import featcache
from featcache.scale.plan_file import read_plan
from tests.cli.conftest import Run
from tests.scale.breaking import column_of, in_numerics
from tests.store.damage import flip


@pytest.fixture
def shares(pixels: list[str], run: Run, small_blocks: None) -> Path:
    """A folder of two parts: 12 + 4 images in 4 blocks."""
    for index in range(2):
        assert run(*pixels, "--share", f"{index}/2").exit_code == 0
    [folder] = Path("cache").glob("*/*.parts")
    return folder


def test_a_share_says_what_joins_the_parts(pixels: list[str], run: Run, small_blocks: None) -> None:
    result = run(*pixels, "--share", "1/2")

    assert result.exit_code == 0
    facts = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert facts["share"] == "1/2"
    assert facts["rows"] == "8"
    assert "Once all shares are there: featcache cache merge cache/folder-pets/" in result.stderr


def test_the_plan_alone_says_which_command_is_next(pixels: list[str], run: Run) -> None:
    result = run(*pixels, "--share", "plan/2", "--json")

    said = json.loads(result.stdout)
    assert said["outcome"] == "planned"
    assert said["next"].endswith("--share 0/2")
    assert Path(said["path"]).name == "plan.json"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--share", "2/2"], "asks for share 2 of 2"),
        (["--share", "/2"], "neither is set"),
        (["--share", "x"], "must be I/N"),
        (["--share", "0/2", "--wait", "nan"], "--wait is nan"),
        (["--share", "0/2", "--backbone", "vgg16", "--backbone", "resnet18"], "takes one backbone"),
        (["--share", "ray/0"], "N from 1 to 99999"),
        (["--share", "ray/2", "--device", "cuda:1"], "gives each share a GPU of its own"),
        (["--rows", "5"], "--rows is for --plan, which was not given"),
        (["--wait", "3"], "--wait is for computing a --share"),
        (["--plan", "--share", "/2", "--wait", "3"], "--wait is for computing a --share"),
        (["--plan", "--images-per-s", "0"], "--images-per-s is 0, but must be from 1e-06 to 1e+09"),
        (["--plan", "--rows", "0"], "--rows"),
        (["--plan", "--images-per-s", "9"], "--images-per-s is for networks"),
    ],
)
def test_wrong_shares_and_forecasts_are_refused(
    pixels: list[str], run: Run, arguments: list[str], told: str
) -> None:
    result = run(*pixels, *arguments)

    assert result.exit_code == 2
    assert told in result.stderr


def test_merge_makes_the_cache_that_extract_makes(
    pixels: list[str], run: Run, shares: Path
) -> None:
    merged = run("cache", "merge", str(shares))
    again = run(*pixels, "--json")

    assert merged.exit_code == 0
    assert f"rm -r {shares}" in merged.stderr
    assert json.loads(again.stdout)["outcome"] == "reused"


def test_merge_tells_images_that_could_not_be_read(pets: Path, pixels: list[str], run: Run) -> None:
    (pets / "train/cat/broken.jpg").write_bytes(b"no image")
    share = run(*pixels, "--share", "0/1")
    [folder] = Path("cache").glob("*/*.parts")

    merged = run("cache", "merge", str(folder))

    assert share.exit_code == 0
    assert "1 of 17 images could not be read; the merge lists them" in share.stderr
    assert merged.exit_code == 3
    assert "train train/cat/broken.jpg: " in merged.stderr


def test_what_is_missing_is_told_with_the_line_for_the_array(run: Run, shares: Path) -> None:
    next(shares.glob("part-00001-*.h5")).unlink()

    for command in ("ls", "info", "verify"):
        result = run("cache", command, str(shares))

        assert result.exit_code == 10, command
        assert "Missing shares: 1. On SLURM: sbatch --array=1 with" in result.stderr
        assert "--share 1/2" in result.stderr
    merged = run("cache", "merge", str(shares))
    assert merged.exit_code == 10
    assert "lacks 1 of 2 shares: 1." in merged.stderr


def test_a_complete_folder_is_told_as_such(run: Run, shares: Path) -> None:
    listed, told, verified = (
        run("cache", name, str(shares), "--json") for name in ("ls", "info", "verify")
    )

    assert [listed.exit_code, told.exit_code, verified.exit_code] == [0, 0, 0]
    assert [part["state"] for part in json.loads(listed.stdout)["parts"]] == ["complete"] * 2
    assert json.loads(told.stdout)["n_rows_done"] == 16
    assert json.loads(verified.stdout)["is_sound"]


def test_ls_lists_folders_of_parts_beside_caches(run: Run, shares: Path) -> None:
    result = run("cache", "ls")

    [_, line] = result.stdout.splitlines()
    assert line.endswith(f"parts, 100%  {shares}")


def test_a_damaged_plan_hides_no_other_cache(run: Run, shares: Path) -> None:
    (shares.parent / "other-12345678.parts").mkdir()
    (shares.parent / "other-12345678.parts" / "plan.json").write_text("{")

    told, as_json = run("cache", "ls"), run("cache", "ls", "--json")

    assert (told.exit_code, as_json.exit_code) == (0, 0)
    assert str(shares) in told.stdout
    assert "other-12345678.parts" in told.stderr
    assert "other-12345678.parts" in json.loads(as_json.stdout)["problems"][0]


def test_verify_of_parts_names_damage(run: Run, shares: Path) -> None:
    part = next(shares.glob("part-00001-*.h5"))
    flip(part, featcache.open_cache(part)["train"].columns["features"].offset)

    result = run("cache", "verify", str(shares))

    assert result.exit_code == 13
    assert "train rows 0 to 3" in result.stderr


def test_verify_of_parts_calls_none_sound_whose_head_is_damaged(run: Run, shares: Path) -> None:
    part = next(shares.glob("part-00001-*.h5"))
    part.write_bytes(part.read_bytes()[:100])

    told, as_json = (
        run("cache", "verify", str(shares)),
        run("cache", "verify", str(shares), "--json"),
    )

    assert (told.exit_code, as_json.exit_code) == (13, 13)
    assert "DAMAGED" in told.stdout
    assert json.loads(as_json.stdout)["is_sound"] is False


def test_a_stranger_in_the_folder_is_told(run: Run, shares: Path) -> None:
    part = next(shares.glob("part-00001-*.h5"))
    part.with_name("part-00001-of-00009-12345678.h5").write_bytes(part.read_bytes())

    told, merged = run("cache", "info", str(shares)), run("cache", "merge", str(shares))

    assert (told.exit_code, merged.exit_code) == (12, 12)
    assert "is not of this plan" in told.stderr
    assert "n_shares: found 9, wanted 2" in merged.stderr


@pytest.mark.parametrize("command", ["ls", "info", "verify"])
def test_parts_of_another_numeric_class_are_told_with_what_merges_them(
    run: Run, shares: Path, command: str
) -> None:
    in_numerics(read_plan(shares))

    told = run("cache", command, str(shares))
    merged = run("cache", "merge", "--mix-numerics", str(shares))

    assert (told.exit_code, merged.exit_code) == (12, 0)
    assert "other numerics: " in told.stderr
    assert "blocks that another numeric class computed: 2" in told.stderr
    assert f"Join them with: featcache cache merge --mix-numerics {shares}" in told.stderr
    assert "Missing" not in told.stderr
    assert "NOT OF ONE PLAN" not in told.stdout


def test_verify_of_parts_holds_labels_against_the_plan_as_a_merge_does(
    run: Run, shares: Path
) -> None:
    column_of("labels")(read_plan(shares))

    told, merged = run("cache", "verify", str(shares)), run("cache", "merge", str(shares))

    assert (told.exit_code, merged.exit_code) == (12, 12)
    assert "NOT OF ONE PLAN" in told.stdout
    assert "other labels, ids or digests of images" in told.stderr


def test_a_folder_of_caches_is_not_taken_for_one_of_parts(run: Run, shares: Path) -> None:
    other, both = (
        run("cache", "ls", "cache"),
        run("cache", "ls", str(shares), "--cache-dir", "elsewhere"),
    )

    assert (other.exit_code, both.exit_code) == (2, 2)
    assert "To list the caches in it: featcache cache ls --cache-dir cache" in other.stderr
    assert "give one of them" in both.stderr


def test_what_is_no_cache_or_no_folder_of_parts_is_told_as_what_it_is(
    run: Run, shares: Path
) -> None:
    assert run("cache", "merge", str(shares)).exit_code == 0
    [cache] = Path("cache").glob("*/*.h5")

    removed, merged = run("cache", "rm", str(shares)), run("cache", "merge", str(cache))

    assert (removed.exit_code, merged.exit_code) == (2, 10)
    assert "is a folder of parts. Nothing was removed. To remove it with all its parts: rm -r " in (
        removed.stderr
    )
    assert f"{cache} is a file, but the parts of a cache lie in a folder" in merged.stderr
    assert shares.is_dir()


def test_images_of_parts_are_not_verified(run: Run, shares: Path) -> None:
    result = run("cache", "verify", str(shares), "--images")

    assert result.exit_code == 2
    assert "merge the parts first" in result.stderr


def test_a_forecast_says_what_it_costs_and_computes_nothing(pixels: list[str], run: Run) -> None:
    result = run(*pixels, "--plan", "--decoded-per-s", "100", "--image-nbytes", "110kB")

    assert result.exit_code == 0
    facts = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["rows"] == "16 of 192 features"
    assert facts["bound by"] == "decoding"
    assert facts["time"].endswith(" s")
    assert facts["command"].endswith("--backbone pixels --image-size 8 --n-workers 0")
    assert "array" not in facts
    assert not Path("cache").exists()
