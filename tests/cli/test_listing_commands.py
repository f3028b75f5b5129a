from __future__ import annotations

import json

import pytest

import featcache
from tests.cli.conftest import Run


def test_datasets_are_listed_with_what_is_here(run: Run) -> None:
    result = run("datasets")

    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "  yes   scikit-learn" in lines["digits"]
    assert "  no    torchvision" in lines["cifar10"]
    assert "folder:PATH" in lines
    assert all(len(line) <= 80 for line in lines.values())
    assert result.stderr == ""


def test_datasets_as_json_hold_every_dataset(run: Run) -> None:
    listed = json.loads(run("datasets", "--json").stdout)["datasets"]

    assert [d["name"] for d in listed] == [d.name for d in featcache.list_datasets()]
    assert listed[0]["present"] is False


def test_backbones_are_filtered_by_name(run: Run) -> None:
    result = run("backbones", "mobilenet_v3", "--image-size", "64")

    assert result.exit_code == 0
    header, *rows = result.stdout.splitlines()
    assert header.split()[:3] == ["backbone", "features", "params"]
    assert [row.split()[:2] for row in rows] == [
        ["mobilenet_v3_large", "960"],
        ["mobilenet_v3_small", "576"],
    ]


def test_backbones_as_json_tell_dimension_and_weights(run: Run) -> None:
    [backbone] = json.loads(run("backbones", "mobilenet_v3_small", "--json").stdout)["backbones"]

    assert (backbone["n_features"], backbone["image_size"]) == (576, 224)
    assert backbone["weights"] == ["IMAGENET1K_V1"]
    assert backbone["weights_on_disk"] == []


def test_an_unknown_name_of_timms_is_told_before_any_row(run: Run) -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed; `dev` has it")

    result = run("backbones", "timm:nix")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: Unknown backbone 'timm:nix'." in result.stderr


@pytest.mark.parametrize(("name", "hint"), [("vgg61", "Did you mean 'vgg"), ("[red]", "[red]")])
def test_an_unknown_backbone_is_exit_2(run: Run, name: str, hint: str) -> None:
    result = run("backbones", name)

    assert result.exit_code == 2
    assert f"error: Unknown backbone '{name}'." in result.stderr
    assert hint in result.stderr
