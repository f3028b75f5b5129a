from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import pytest
from PIL import Image

import featcache
from featcache.images import decode_process
from featcache.store import locked
from tests.cli.conftest import Run


def flip_a_byte_of_row_5(path: Path) -> None:
    with h5py.File(path, "r") as h5:
        offset = h5["train/features"].id.get_offset() + 5 * 8 * 8 * 3
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_ls_of_nothing_says_how_to_make_one(run: Run) -> None:
    result = run("cache", "ls")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == (
        "There are no caches in 'cache'. Make one with: featcache extract --dataset cifar10 "
        "--backbone vgg16\n"
    )
    nothing = {"caches": [], "parts": [], "problems": []}
    assert json.loads(run("cache", "ls", "--json").stdout) == nothing


def test_ls_shows_complete_partial_and_damaged_files(
    run: Run, pixels: list[str], partial_file: Path
) -> None:
    run(*pixels, "--limit", "4")
    damaged = partial_file.with_name("pixels-00000000.h5")
    damaged.write_text("nothing")

    result = run("cache", "ls")

    assert result.exit_code == 0
    states = {line.split()[-1]: line.split()[-2] for line in result.stdout.splitlines()[1:]}
    [complete] = [c.path for c in featcache.list_caches("cache") if c.state == "complete"]
    assert states == {str(partial_file): "50%", str(complete): "complete", str(damaged): "damaged"}
    assert f"{damaged} is not an HDF5 file" in result.stderr
    listed = json.loads(run("cache", "ls", "--json").stdout)["caches"]
    assert {c["path"]: c["state"] for c in listed}[str(partial_file)] == "incomplete"


def test_info_tells_identity_provenance_and_splits(run: Run, cache_file: Path) -> None:
    result = run("cache", "info", str(cache_file))

    assert result.exit_code == 0
    facts = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["state"] == "complete, 16 of 16 rows"
    assert facts["preprocess"].endswith("resize 8x8, std 0.5 0.5 0.5")
    assert facts["made with featcache"] == featcache.__version__
    assert facts["classes"] == "cat, dog"
    assert facts["split train"] == "12 rows of 8x8x3 uint8, 0 invalid"
    assert "None" not in result.stdout


def test_info_as_json_is_the_description(run: Run, cache_file: Path) -> None:
    description = json.loads(run("cache", "info", "pets", "--json").stdout)

    assert description["fingerprint"] == featcache.open_cache(cache_file).fingerprint
    assert description["splits"][1]["rows_per_class"] == {"cat": 2, "dog": 2}


def test_info_of_a_partial_file_says_how_far_it_is(run: Run, partial_file: Path) -> None:
    result = run("cache", "info", "pixels")

    assert result.exit_code == 0
    assert "8 of 16 rows" in result.stdout


def test_info_lists_unreadable_images(run: Run, pets: Path, pixels: list[str]) -> None:
    (pets / "test" / "dog" / "torn.png").write_bytes(b"not an image")
    run(*pixels)

    result = run("cache", "info", "pixels")

    assert "split test 5 rows of 8x8x3 uint8, 1 invalid" in " ".join(result.stdout.split())
    assert "test test/dog/torn.png: not an image" in result.stderr


def test_an_image_that_this_machine_cannot_decode_is_counted_and_repaired_elsewhere(
    run: Run, pets: Path, pixels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (5000, 5000), 99).save(pets / "test" / "dog" / "slow.png", compress_level=1)
    with monkeypatch.context() as hurry:
        # No image of a test takes the usual limit, which is no option.
        hurry.setattr(decode_process, "CPU_SECONDS_PER_IMAGE", 0.08)
        refused = run(*pixels, "--n-workers", "1")
        skipped = run(*pixels, "--n-workers", "1", "--skip-undecodable")
        info = run("cache", "info", "pixels")
        again = run("cache", "repair", "pixels", "--n-workers", "1", "--skip-undecodable")
    repaired = run("cache", "repair", "pixels", "--n-workers", "1")

    assert refused.exit_code == 16
    assert "slow.png cannot be decoded on this machine" in refused.stderr
    assert skipped.exit_code == again.exit_code == 3
    assert "test test/dog/slow.png: not decoded here: more than 0.08 CPU" in skipped.stderr
    assert "Replace the files" not in skipped.stderr
    assert "1 invalid, 1 of them not decoded here" in info.stdout
    assert "featcache cache repair" in info.stderr
    assert repaired.exit_code == 0
    assert "0 invalid" in run("cache", "info", "pixels").stdout


@pytest.mark.parametrize("command", ["info", "verify", "rm"])
def test_a_cache_that_is_not_there_is_exit_10(run: Run, cache_file: Path, command: str) -> None:
    result = run("cache", command, "pixel-s")

    assert result.exit_code == 10
    assert "There is no cache 'pixel-s'" in result.stderr
    assert "featcache cache ls" in result.stderr


def test_a_name_that_fits_two_is_exit_2_and_lists_them(run: Run, pixels: list[str]) -> None:
    run(*pixels)
    run(*pixels, "--limit", "2")

    result = run("cache", "rm", "pixels", "--yes")

    assert result.exit_code == 2
    both = featcache.list_caches("cache")
    assert len(both) == 2
    assert all(str(cache.path) in result.stderr for cache in both)


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_file_that_is_not_hdf5_is_exit_13(run: Run, command: str) -> None:
    Path("x.h5").write_text("hello")

    result = run("cache", command, "x.h5")

    assert result.exit_code == 13
    assert "x.h5 is not an HDF5 file" in result.stderr


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_fifo_is_exit_15_and_never_waited_on(run: Run, command: str) -> None:
    os.mkfifo("pipe.h5")

    result = run("cache", command, "pipe.h5")

    assert result.exit_code == 15
    assert "pipe.h5 is not a regular file" in result.stderr


def test_verify_of_a_sound_cache(run: Run, cache_file: Path) -> None:
    result = run("cache", "verify", "pets")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"cache    {cache_file}",
        "checked  4 of 4 blocks, 16 of 16 rows",
        "result   sound",
    ]


def test_verify_of_a_flipped_bit_names_split_and_rows(run: Run, cache_file: Path) -> None:
    flip_a_byte_of_row_5(cache_file)

    result = run("cache", "verify", "pets")
    answer = json.loads(run("cache", "verify", "pets", "--json").stdout)

    assert result.exit_code == 13
    assert "result   DAMAGED" in result.stdout
    assert "damaged: train rows 4 to 7 (block 1): " in result.stderr
    assert f"featcache cache repair {cache_file}" in result.stderr
    assert answer["is_sound"] is False
    assert answer["mend_with"].startswith("featcache cache repair ")
    assert [(d["split"], d["first_row"], d["last_row"]) for d in answer["damages"]] == [
        ("train", 4, 7)
    ]


def test_verify_with_images_names_the_one_that_changed(run: Run, cache_file: Path) -> None:
    same = run("cache", "verify", "pets", "--images")
    image_id = featcache.open_cache(cache_file)["train"].ids[1]
    folder = Path(
        json.loads(run("cache", "info", "pets", "--json").stdout)["provenance"]["dataset"]
    )
    image = Path(str(folder).removeprefix("folder:")) / image_id
    image.write_bytes(image.read_bytes() + b"\0")

    changed = run("cache", "verify", "pets", "--images")
    answer = json.loads(run("cache", "verify", "pets", "--images", "--json").stdout)

    assert (same.exit_code, changed.exit_code) == (0, 12)
    assert "as they were" in same.stdout
    assert f"changed: train {image_id} (row 1): it holds other bytes now" in changed.stderr
    assert (answer["images"]["are_same"], answer["images"]["changed"][0]["id"]) == (False, image_id)
    assert "mend_with" not in answer  # a repair brings no image back


def test_verify_of_a_dataset_without_images_is_a_usage_error(run: Run, cache_file: Path) -> None:
    result = run("cache", "verify", "pets", "--dataset", "digits")

    assert result.exit_code == 2
    assert "for --images, which was not given" in result.stderr


def test_verify_of_a_partial_file_is_exit_10(run: Run, pets: Path, partial_file: Path) -> None:
    result = run("cache", "verify", "pets")

    assert result.exit_code == 10
    assert "checked  2 of 4 blocks, 8 of 16 rows" in result.stdout
    assert "2 of 4 blocks are not written yet" in result.stderr
    assert (
        f"To go on from there: featcache extract --dataset folder:{pets} --backbone pixels "
        f"--image-size 8\n"
    ) in result.stderr


@pytest.mark.parametrize("subset", ["25%", "0.25"])
def test_verify_of_a_share_reads_that_many_blocks(run: Run, cache_file: Path, subset: str) -> None:
    result = run("cache", "verify", "pets", "--subset", subset)

    assert result.exit_code == 0
    assert "checked  1 of 4 blocks, 4 of 16 rows" in result.stdout


@pytest.mark.parametrize("subset", ["0", "101%", "half", "nan"])
def test_verify_of_a_senseless_share_is_exit_2(run: Run, cache_file: Path, subset: str) -> None:
    result = run("cache", "verify", "pets", "--subset", subset)

    assert result.exit_code == 2
    assert "--subset is " in result.stderr


@pytest.mark.parametrize("answer", ["", "n\n", "\n", "nonsense\n", "y"])
def test_rm_asks_and_only_a_yes_removes(run: Run, cache_file: Path, answer: str) -> None:
    result = run("cache", "rm", "pets", answers=answer)

    question = f"Remove {cache_file} (complete, 16 rows, "
    assert result.stderr.startswith(question)
    assert " kB)? [y/N] " in result.stderr
    assert cache_file.exists() == (answer != "y")
    assert result.exit_code == (0 if answer == "y" else 1)
    assert ("Nothing was removed" in result.stderr) == (answer != "y")


def test_rm_with_yes_does_not_ask(run: Run, cache_file: Path) -> None:
    result = run("cache", "rm", "pets", "--yes", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"removed": [str(cache_file)]}
    assert result.stderr == ""
    assert featcache.list_caches("cache") == []


def test_rm_of_a_cache_that_is_being_written_is_exit_11(run: Run, partial_file: Path) -> None:
    with locked(partial_file.with_suffix("")):
        result = run("cache", "rm", "pets", "--yes")

    assert result.exit_code == 11
    assert partial_file.exists()


def test_rm_removes_a_partial_file_and_a_damaged_one(run: Run, partial_file: Path) -> None:
    partial_file.write_bytes(b"torn")

    result = run("cache", "rm", "pets", "--yes")

    assert result.exit_code == 0
    assert not partial_file.exists()


def test_rm_leaves_files_that_may_be_anything(run: Run) -> None:
    Path("thesis.h5").write_text("five years")

    result = run("cache", "rm", "thesis.h5", "--yes")

    assert result.exit_code == 13
    assert "thesis.h5 cannot be read as a cache" in result.stderr
    assert "Nothing was removed" in result.stderr
    assert Path("thesis.h5").exists()


def test_repair_restores_the_file(run: Run, cache_file: Path) -> None:
    sound = cache_file.read_bytes()
    flip_a_byte_of_row_5(cache_file)

    result = run("cache", "repair", "pets", "--n-workers", "0")

    assert result.exit_code == 0
    assert "to be computed again: train rows 4 to 7" in result.stderr
    assert "computed  4 of 16 rows" in result.stdout
    assert "result    repaired" in result.stdout
    assert cache_file.read_bytes() == sound
    again = json.loads(run("cache", "repair", str(cache_file), "--json").stdout)
    assert (again["was_sound"], again["n_rows_computed"], again["mended"]) == (True, 0, [])


@pytest.mark.parametrize("name", ["", ".", "h5"])
@pytest.mark.parametrize("command", ["rm", "verify", "info", "repair"])
def test_an_empty_variable_names_no_cache(
    run: Run, cache_file: Path, command: str, name: str
) -> None:
    options = ["-y"] if command == "rm" else []

    result = run("cache", command, name, *options)

    assert result.exit_code == 2
    assert "is too short to be part of a cache's name. Nothing was changed." in result.stderr
    assert cache_file.exists()


def test_a_file_of_another_kind_is_found_and_refused(run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")

    result = run("cache", "verify", str(notes))

    assert result.exit_code == 13
    assert "is not an HDF5 file" in result.stderr
