"""`extract --devices`: what it takes, and what it does not."""

from __future__ import annotations

import json

import pytest
import torch

from tests.cli.conftest import Run


def test_one_device_computes_the_cache_in_this_process(pixels: list[str], run: Run) -> None:
    result = run(*pixels, "--devices", "cpu:1", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["outcome"] == "computed"
    assert "worker" not in result.stderr


def test_a_cache_that_is_there_is_reused_on_any_devices(pixels: list[str], run: Run) -> None:
    run(*pixels)

    result = run(*pixels, "--devices", "cpu:3", "--json")

    assert json.loads(result.stdout)["outcome"] == "reused"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_a_device_error(pixels: list[str], run: Run) -> None:
    result = run(*pixels, "--devices", "2")

    assert result.exit_code == 16
    assert "cuda:0 was asked for" in result.stderr
    assert "--devices cpu:2" in result.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--devices", "cpu:0"],
            "--devices is 'cpu:0', but the number of devices must be 1 to 256",
        ),
        (["--devices", "gpu"], "--devices is 'gpu', but must be a number of GPUs"),
        (["--devices", "cpu:2", "--backbone", "vgg16"], "--devices takes one backbone, but 2 are"),
        (["--devices", "cpu:2", "--share", "0/2"], "--devices and --share do not go together"),
        (["--devices", "cpu:2", "--plan"], "--devices and --plan do not go together"),
        (["--devices", "cpu:2", "--device", "cpu"], "--device cpu and --devices cpu:2 both say"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(
    pixels: list[str], run: Run, options: list[str], told: str
) -> None:
    result = run(*pixels, *options)

    assert result.exit_code == 2
    assert told in result.stderr
