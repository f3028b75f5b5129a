"""What a command imports: seconds of start-up are packages that it has no use for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from featcache.core import preload
from tests.cli.conftest import Run, Spawn
from tests.conftest import save_image

SLOW = ("torch", "torchvision", "pytorch_lightning", "torchmetrics", "scipy", "sklearn")
# Runs commands one after the other, and tells what each has imported until then.
CHILD = """
import contextlib, io, json, sys
from featcache_cli.app import app
for arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ended = app(arguments, standalone_mode=False)
    slow = [name for name in sys.argv[2].split(",") if name in sys.modules]
    code = ended if isinstance(ended, int) else 0  # else it is the command's result
    print(json.dumps({"arguments": arguments, "code": code, "slow": slow}))
"""
WITHOUT_TORCH: Sequence[tuple[list[str], int]] = (
    (["eval", "nosuchrun"], 10),
    (["eval", "--split", "nosuch"], 2),
    (["eval", "--cache", "nosuch"], 10),
    (["eval", "--device", "nosuch"], 2),
    (["export", "nosuchrun", "--out", "x.onnx"], 10),
    (["export", "--out", "x.txt"], 2),
    (["export", "--out", "x.onnx", "--input", "0x0"], 2),
    (["export", "--out", "x.onnx", "--check", "photos"], 2),
    (["train-head", "--dataset", "digits"], 10),
    (["train-head", "--dataset", "nosuch"], 2),
    (["train-head", "--backbone", "nosuch"], 2),
    (["train-head", "--reg", "nosuch"], 2),
    (["train-head", "--device", "nosuch"], 2),
    (["train-head", "--solver", "nosuch"], 2),
    (["train-head", "--solver", "knn", "--C", "1"], 2),
    (["train-head", "--solver", "logreg", "--lr", "1"], 2),
    (["sweep", "--solver", "logreg", "--lr", "1", "--cache", "pixels"], 2),
    (["train-head", "--cache", "pixels", "--max-memory", "1kB"], 2),
    (["sweep", "--dataset", "nosuch"], 2),
    (["sweep", "--lr", "-1"], 2),
    (["extract", "--backbone", "nosuch"], 2),
    (["extract", "--weights", "nosuch"], 2),
    (["extract", "--dataset", "nosuch"], 2),
    (["extract", "--dataset", "folder:nosuch"], 2),
    (["extract", "--device", "nosuch"], 2),
    (["extract", "--backbone", "pixels", "--bn", "adapted"], 2),
    (["extract", "--weights", "gone.pth"], 2),
    (["extract", "--weights", "./cache"], 2),
    (["extract", "--image-size", "16"], 2),
    (["extract", "--backbone", "vit_b_16", "--image-size", "96"], 2),
    (["extract", "--backbone", "resnet18", "--backbone", "vgg16", "--image-size", "16"], 2),
    (["predict", "nosuch.png"], 2),
    (["predict", "pets", "--run", "nosuch"], 10),
    (["predict", "pets", "--top", "0"], 2),
    (["predict", "pets", "--csv", "x.csv", "--jsonl"], 2),
    (["backbones", "nosuch"], 2),
    (["reproduce", "--only", "nosuch"], 2),
    (["reproduce", "--weights", "nosuch"], 2),
    (["reproduce", "--weights", "gone.pth"], 2),
    (["reproduce", "--image-size", "16"], 2),
    (["parity", "--levels", "7"], 2),
    (["parity", "--weights", "./cache"], 2),
    (["parity", "--image-size", "16"], 2),
    (["parity", "--backbone", "nosuch"], 2),
    (["probe", "nosuch"], 10),
    (["audit", "nosuch"], 10),
    (["audit", "--top", "0"], 2),
    (["audit", "pixels", "--run", "nosuch"], 10),
    (["audit", "pixels", "--write-list", "pets"], 2),
    (["report", "nosuch"], 10),
    (["report", "--out", "x.txt"], 2),
    (["probe", "--per-class", "0"], 2),
    (["similar", "nosuch", "--cache", "pixels"], 2),
    (["similar", "train/cat", "--cache", "pixels"], 2),
    (["similar", "README", "--cache", "nosuch"], 10),
    (["similar", "train/cat/01.png", "--cache", "pixels", "--split", "nosuch"], 2),
    (["datasets"], 0),
    (["cache", "ls"], 0),
    (["cache", "info", "pixels"], 0),
    (["cache", "verify", "pixels"], 0),
    (["cache", "repair", "pixels"], 0),
    (["cache", "repair", "nosuch"], 10),
)


@pytest.fixture
def trained(pixels: list[str], run: Run) -> list[str]:
    """The command that trained a head on the cache of the 16 images."""
    command = ["train-head", "--cache", "pixels", "--max-epochs", "1", "--val-fraction", "0.5"]
    assert run(*pixels).exit_code == 0
    assert run(*command).exit_code == 0
    return command


def imported(spawn: Spawn, commands: Sequence[list[str]]) -> list[tuple[list[str], int, list[str]]]:
    finished = spawn(json.dumps(commands), ",".join(SLOW), code=CHILD)
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(lines) == len(commands), finished.stderr
    return [(line["arguments"], line["code"], line["slow"]) for line in lines]


def test_what_needs_no_features_is_answered_without_torch(trained: list[str], spawn: Spawn) -> None:
    expected = [*WITHOUT_TORCH, (trained, 0)]

    found = imported(spawn, [arguments for arguments, _ in expected])

    assert found == [(arguments, code, []) for arguments, code in expected]


def test_images_of_one_class_are_refused_without_torch(
    tmp_path: Path, run: Run, spawn: Spawn
) -> None:
    for i in range(5):
        save_image(tmp_path / "cats" / "train" / "cat" / f"{i}.png", i)
    extract = ["extract", "--dataset", "folder:cats", "--backbone", "pixels", "--image-size", "8"]
    assert run(*extract, "--n-workers", "0").exit_code == 0

    found = imported(spawn, [["train-head", "--cache", "cats"], ["sweep", "--cache", "cats"]])

    assert [(code, slow) for _, code, slow in found] == [(2, []), (2, [])]


def test_a_reused_cache_and_an_evaluation_import_no_lightning(
    trained: list[str], pixels: list[str], spawn: Spawn
) -> None:
    (_, _, of_extract), (_, _, of_eval) = imported(spawn, [pixels, ["eval", "--split", "val"]])

    # None if the files were two seconds old when they were read, so that they are known. pixels
    # have no backbone, so no torchvision either.
    assert of_extract in ([], ["torch"])
    assert "torchmetrics" in of_eval
    assert "pytorch_lightning" not in of_eval


def test_what_is_imported_meanwhile_is_there_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_package.py").write_text("import time; time.sleep(0.2)")
    monkeypatch.syspath_prepend(tmp_path)

    with preload.preloading("slow_package"):
        pass

    assert "slow_package" in sys.modules
    del sys.modules["slow_package"]


def test_what_an_import_meanwhile_raises_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("raise OSError('its library is missing')")
    monkeypatch.syspath_prepend(tmp_path)

    with (
        pytest.raises(OSError, match="its library is missing"),
        preload.preloading("broken_package"),
    ):
        pass
