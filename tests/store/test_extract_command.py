"""The command that made a cache names all that was not a default, and a shell can read it."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.config import ExtractSpec
from featcache.errors import CacheMissingError, InterruptedRunError
from featcache.store import Identity, Provenance, command_of, extract_command, read_state

IDENTITY = {
    "backbone": "vgg16",
    "bn": "frozen",
    "precision": "tf32",
    "store_dtype": "float32",
    "preprocess": {"resize": [224, 224], "crop": None, "interpolation": "bilinear"},
}


def command(path: str, identity: dict[str, Any], **provenance: Any) -> list[str]:
    said = {"dataset": "cifar10", "limit": None, "weights": "IMAGENET1K_V1", **provenance}
    written = command_of(
        Path(path), Identity.from_json(IDENTITY | identity), Provenance.from_json(said)
    )
    return shlex.split(written)


def test_what_is_at_its_default_is_left_out_but_for_dataset_and_backbone() -> None:
    assert extract_command({"limit": None, "image_size": None, "cache_dir": "./cache"}) == (
        "featcache extract --dataset cifar10 --backbone vgg16"
    )


def test_every_option_that_was_given_is_named_and_quoted() -> None:
    given = ExtractSpec(
        dataset="folder:my pets",
        backbone="resnet18",
        weights="a file.pth",
        limit=8,
        cache_dir="all my caches",
        mix_numerics=True,
    )

    words = shlex.split(extract_command(dataclasses.asdict(given)))

    assert words == [
        *("featcache", "extract", "--dataset", "folder:my pets", "--backbone", "resnet18"),
        *("--weights", "a file.pth", "--limit", "8", "--cache-dir", "all my caches"),
        "--mix-numerics",
    ]


@pytest.mark.parametrize(
    ("identity", "provenance", "options"),
    [
        ({}, {}, ""),
        ({"bn": {"mode": "adapted", "seed": 0}}, {}, "--bn adapted"),
        ({"precision": "bf16", "store_dtype": "float16"}, {"limit": 7}, "--limit 7"),
        ({}, {"weights": "random (seed 3)"}, "--weights random --seed 3"),
        ({"backbone": "resnet50"}, {"weights": "IMAGENET1K_V1"}, "--weights IMAGENET1K_V1"),
        ({}, {"weights": "mine.pth"}, "--weights mine.pth"),
        ({"max_pixels": 99, "exif_orientation": "apply"}, {}, "--exif-orientation apply"),
        (
            {"preprocess": {"resize": 146, "crop": 128, "interpolation": "bicubic"}},
            {},
            "--preprocess weights --image-size 128",
        ),
    ],
)
def test_a_cache_names_the_options_that_it_was_made_with(
    identity: dict[str, Any], provenance: dict[str, Any], options: str
) -> None:
    words = command("cache/cifar10/x.h5", identity, **provenance)

    assert words[:2] == ["featcache", "extract"]
    assert set(options.split()) <= set(words)
    for name in ("weights", "preprocess", "image-size", "seed", "cache-dir", "bn"):
        assert (f"--{name}" in words) == (f"--{name}" in options)


@pytest.mark.parametrize(
    ("backbone", "dataset", "written"),
    [
        ("imported", "imported:clip", "featcache cache import"),
        ("vgg16", "python:mine", "the same call in Python"),
    ],
)
def test_a_cache_that_no_extract_command_made_gets_none(
    backbone: str, dataset: str, written: str
) -> None:
    identity, said = Identity.from_json({"backbone": backbone}), {"dataset": dataset}

    assert command_of(Path("x/y/z.h5"), identity, Provenance.from_json(said)) == written


def test_its_own_command_makes_the_same_cache(tmp_path: Path) -> None:
    options = {"backbone": "mobilenet_v3_small", "weights": "random", "seed": 2, "image_size": 32}
    made = featcache.extract("digits", **options, limit=4, cache_dir=tmp_path / "my caches")
    manifest = read_state(made.path).manifest

    words = shlex.split(command_of(made.path, manifest.identity, manifest.provenance))

    typed = dict(zip(words[2::2], words[3::2], strict=True))
    again = featcache.extract(
        **{
            name.removeprefix("--").replace("-", "_"): int(text) if text.isdigit() else text
            for name, text in typed.items()
        }
    )
    assert (again.outcome, again.path) == ("reused", made.path)


def test_opening_an_unfinished_cache_names_the_command_that_goes_on(tmp_path: Path) -> None:
    def press_ctrl_c(progress: featcache.Progress) -> None:
        if progress.stage == "extract":
            raise KeyboardInterrupt

    place = {"cache_dir": tmp_path, "on_progress": press_ctrl_c}
    with pytest.raises(InterruptedRunError):
        featcache.extract("digits", backbone="pixels", image_size=8, limit=9, **place)
    [unfinished] = featcache.list_caches(tmp_path)

    with pytest.raises(CacheMissingError) as caught:
        featcache.open_cache(unfinished.path)

    assert str(caught.value).endswith(
        f"It goes on from there with: featcache extract --dataset digits --backbone pixels "
        f"--image-size 8 --limit 9 --cache-dir {tmp_path}"
    )
