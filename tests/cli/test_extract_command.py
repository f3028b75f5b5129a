from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import torch

import featcache
from featcache.extraction.result import ExtractResult
from featcache.store import locked
from tests.cli.conftest import Run

SMALL_BACKBONE = ["--backbone", "mobilenet_v3_small", "--image-size", "32", "--n-workers", "0"]


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_extract_computes_then_reuses(run: Run, pixels: list[str]) -> None:
    first, second = run(*pixels), run(*pixels)

    [cache] = featcache.list_caches("cache")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout.splitlines()[:3] == [
        f"computed  {cache.path}",
        "rows      16 of 192 features",
        f"size      {cache.nbytes / 1000:.1f} kB",
    ]
    assert second.stdout.splitlines()[0] == f"reused  {cache.path}"
    assert "device cpu: " in first.stderr
    assert "images: train 12, test 4; 2 classes: 'cat', 'dog'\n" in first.stderr


def test_a_backbone_tells_its_choices_and_what_the_cache_saves(run: Run, pets: Path) -> None:
    result = run("extract", "--dataset", f"folder:{pets}", "--weights", "random", *SMALL_BACKBONE)

    assert result.exit_code == 0
    assert "batch size 16: " in result.stderr
    assert "weights: random (seed 0)" in result.stderr
    saves = result.stdout.splitlines()[-1]
    assert saves.startswith("saves     an epoch through the backbone costs ")
    assert ": worth it from epoch " in saves


def test_json_is_one_object_with_every_field(run: Run, pixels: list[str]) -> None:
    result = run(*pixels, "--json")

    answer = json.loads(result.stdout)
    assert list(answer) == [field.name for field in dataclasses.fields(ExtractResult)]
    assert (answer["outcome"], answer["n_rows"], answer["failures"]) == ("computed", 16, [])
    assert Path(answer["path"]).exists()


@pytest.mark.parametrize("is_json", [False, True])
def test_unreadable_images_are_listed_and_exit_3(
    run: Run, pets: Path, pixels: list[str], is_json: bool
) -> None:
    for i in range(12):
        (pets / "train" / "cat" / f"x{i}.png").touch()

    result = run(*pixels, *(["--json"] if is_json else []))

    assert result.exit_code == 3
    assert "unreadable: 12 of 28 images could not be read." in result.stderr
    assert "  train train/cat/x0.png: empty file" in result.stderr
    assert "  and 2 more: featcache cache info cache/" in result.stderr
    if is_json:
        failures = json.loads(result.stdout)["failures"]
        assert len(failures) == 12
        assert failures[0] == {"split": "train", "id": "train/cat/x0.png", "reason": "empty file"}
    else:
        assert result.stdout.startswith("computed  ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--backbone", "vgg61"], "Unknown backbone 'vgg61'. Did you mean 'vgg19', 'vgg16', 'vgg"),
        (["--dataset", "cifra10"], "Unknown dataset 'cifra10'. Did you mean 'cifar10', 'cifar100'"),
        (["--dataset", "folder:nix"], "nix' does not exist. Expected PATH/train/CLASS/*.jpg"),
        (["--dataset", ""], "Unknown dataset ''."),
        (["--dataset", "digits", "--weights", ""], "--weights is empty. Nothing was started."),
        (["--image-size", "0"], "--image-size is 0, but must be at least 1."),
        (["--batch-size", "many"], "--batch-size is 'many', but must be a whole number or auto."),
        (["--n-workers", "1.5"], "--n-workers is '1.5', but must be a whole number or auto."),
        (["--limit", "-3"], "--limit is -3, but must be at least 1."),
        (["--seed", str(2**63)], f"--seed is {2**63}, but must be below 2**63."),
        (["--bn", "frosen"], "must be one of frozen, adapted. Did you mean 'frozen'?"),
        (["--backbone", "pixels", "--bn", "adapted"], "--bn adapted needs a backbone"),
        (["--precision", "tf32", "--device", "cpu"], "tf32 exists only on CUDA"),
    ],
)
def test_bad_values_are_exit_2_and_say_what_is_expected(
    run: Run, arguments: list[str], text: str
) -> None:
    result = run("extract", *arguments)

    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert text in result.stderr
    assert result.stdout == ""
    assert not Path("cache").exists()


def test_a_locked_cache_is_exit_11_and_names_the_holder(
    run: Run, pixels: list[str], partial_file: Path
) -> None:
    before = partial_file.read_bytes()

    with locked(partial_file.with_suffix("")):
        result = run(*pixels)

    assert result.exit_code == 11
    assert f"is being written by process {os.getpid()} on " in result.stderr
    assert partial_file.read_bytes() == before


def test_a_lock_held_by_another_process_is_exit_11(
    run: Run, pixels: list[str], partial_file: Path
) -> None:
    hold = (
        "import sys; from pathlib import Path; from featcache.store import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(partial_file.with_suffix(""))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        result = run(*pixels)
        holder.communicate("")

    assert result.exit_code == 11
    assert f"is being written by process {holder.pid} on " in result.stderr


def test_a_file_of_another_identity_is_exit_12(run: Run, pets: Path, pixels: list[str]) -> None:
    run(*pixels)
    [first] = featcache.list_caches("cache")
    run(*pixels, "--limit", "2")
    [other] = [c for c in featcache.list_caches("cache") if c.path != first.path]
    other.path.rename(first.path)

    result = run(*pixels)

    assert result.exit_code == 12
    assert "holds something else than was asked for: dataset_sha256: found" in result.stderr


def test_a_full_disk_is_exit_14(
    run: Run, pixels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())

    result = run(*pixels)

    assert result.exit_code == 14
    assert "needs 3.1 kB in " in result.stderr
    assert not Path("cache").exists()


def test_weights_that_would_run_code_are_exit_15(run: Run, pets: Path) -> None:
    with Path("evil.pth").open("wb") as file:
        pickle.dump({"features.0.0.weight": RunsCode()}, file)

    weights = ["--weights", "evil.pth"]
    result = run("extract", "--dataset", f"folder:{pets}", *weights, *SMALL_BACKBONE)

    assert result.exit_code == 15
    assert "evil.pth was refused: it holds more than tensors" in result.stderr
    assert not Path("pwned").exists()


def test_a_fifo_as_weights_is_exit_15_and_never_waited_on(run: Run, pets: Path) -> None:
    os.mkfifo("pipe.pth")

    weights = ["--weights", "pipe.pth"]
    result = run("extract", "--dataset", f"folder:{pets}", *weights, *SMALL_BACKBONE)

    assert result.exit_code == 15
    assert "pipe.pth is a FIFO, socket or device, not a file of weights." in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA")
def test_cuda_where_there_is_none_is_exit_16(run: Run) -> None:
    result = run("extract", "--dataset", "digits", "--device", "cuda")

    assert result.exit_code == 16
    assert "sees 0 CUDA device(s)" in result.stderr
    assert "Run with --device cpu" in result.stderr


def test_weights_that_cannot_be_fetched_name_file_folder_and_ways_out(
    run: Run, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unplugged(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unplugged)

    result = run("extract", "--dataset", f"folder:{pets}", *SMALL_BACKBONE)

    assert result.exit_code == 2
    assert (
        "cannot be reached (<urlopen error no route to host>). Nothing was kept." in result.stderr
    )
    folder = f"{os.environ['TORCH_HOME']}/hub/checkpoints"
    assert f"Download mobilenet_v3_small-047dcff4.pth elsewhere and place it in {folder}" in (
        result.stderr
    )
    assert "--weights PATH or --weights random" in result.stderr


def test_nothing_into_a_pipe_is_coloured(run: Run, pixels: list[str]) -> None:
    results = [run(*pixels), run("extract", "--backbone", "vgg61"), run("datasets")]

    assert not any("\x1b" in result.output for result in results)
