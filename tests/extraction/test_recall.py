"""The same command finds its cache without torch, and only where nothing changed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import featcache
from featcache.errors import MismatchError
from featcache.extraction.result import ExtractResult
from featcache.images.headers import header_reader
from featcache.images.rules import ImageRules
from featcache.images.splits import Look
from featcache.images.stat_index import KnownFiles
from tests.conftest import SMALL_BACKBONE, save_image
from tests.images.conftest import cifar
from tests.weights_files import save_weights

RECALLED = "images, weights and versions are those of the cache (--rehash reads all files)"
LATER_NS = 10_000_000_000

Extract = Callable[..., ExtractResult]
Outcome = Callable[..., tuple[str, bool]]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for i in range(4):
        save_image(root / "train" / ("cat" if i % 2 else "dog") / f"{i}.png", i)
    return root


@pytest.fixture
def pixels(few: Path, tmp_path: Path) -> Extract:
    return partial(
        featcache.extract,
        f"folder:{few}",
        backbone="pixels",
        image_size=8,
        n_workers=0,
        cache_dir=tmp_path / "cache",
        data_dir=tmp_path / "data",
    )


def outcome(extract: Extract, **options: object) -> tuple[str, bool]:
    """Say what an extraction came to, and whether it was recalled."""
    notes: list[str] = []
    result = extract(on_note=notes.append, **options)
    return result.outcome, RECALLED in notes


@pytest.fixture
def seconds_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands start seconds after the files were written."""
    clock = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() + LATER_NS)


def test_the_same_command_is_recalled_and_gives_the_same_result(pixels: Extract) -> None:
    first = pixels()

    assert outcome(pixels) == ("reused", True)
    again = pixels()
    for name in ("path", "fingerprint", "n_rows", "n_features", "nbytes", "failures"):
        assert getattr(again, name) == getattr(first, name), name
    assert set(again.choices) <= set(first.choices)


def test_it_imports_no_torch(pixels: Extract, few: Path, tmp_path: Path) -> None:
    pixels()
    code = (
        "import featcache, sys\n"
        "r = featcache.extract(sys.argv[1], backbone='pixels', image_size=8, "
        "cache_dir=sys.argv[2], data_dir=sys.argv[3])\n"
        "print(r.outcome, 'torch' in sys.modules)"
    )
    arguments = [f"folder:{few}", str(tmp_path / "cache"), str(tmp_path / "data")]

    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )

    assert ended.stdout.split() == ["reused", "False"]


def test_rehash_checks_all_with_torch(pixels: Extract) -> None:
    pixels()

    assert outcome(pixels, rehash=True) == ("reused", False)
    assert outcome(pixels) == ("reused", True)


def test_options_that_decide_no_feature_do_not_matter(pixels: Extract) -> None:
    pixels()

    assert outcome(pixels, n_workers=1, skip_undecodable=True) == ("reused", True)


@pytest.mark.parametrize("option", [{"limit": 2}, {"image_size": 9}, {"max_pixels": 9}])
def test_another_command_is_another(pixels: Extract, option: dict[str, int]) -> None:
    pixels()

    assert outcome(pixels, **option) == ("computed", False)


def test_changed_images_are_found_and_put_back_they_are_reused(
    pixels: Extract, few: Path, seconds_later: None
) -> None:
    pixels()
    file = few / "train/cat/1.png"
    before, status = file.read_bytes(), file.stat()
    file.write_bytes(bytes([*before[:-1], before[-1] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert outcome(pixels) == ("computed", False)
    file.write_bytes(before)
    assert outcome(pixels) == ("reused", False)
    assert outcome(pixels) == ("reused", True)


def test_a_cache_that_was_removed_is_computed_again(pixels: Extract) -> None:
    pixels().path.unlink()

    assert outcome(pixels) == ("computed", False)


def test_a_cache_that_is_damaged_is_not_recalled(pixels: Extract) -> None:
    path = pixels().path
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")

    with pytest.raises(featcache.FeatcacheError, match="damaged"):
        pixels()


def test_another_cache_in_its_place_is_refused(pixels: Extract) -> None:
    path, other = pixels().path, pixels(image_size=9).path
    path.write_bytes(other.read_bytes())

    with pytest.raises(MismatchError, match="holds something else"):
        pixels()


def test_a_file_of_weights_that_changed_is_found(
    pixels: Extract, tmp_path: Path, seconds_later: None
) -> None:
    weights = save_weights(tmp_path / "w.pth", "squeezenet1_1", image_size=32)
    network = partial(pixels, backbone="squeezenet1_1", image_size=32, batch_size=4)
    run = partial(outcome, network, weights=str(weights))
    assert [run(), run()] == [("computed", False), ("reused", True)]

    status = weights.stat()
    changed = torch.load(weights, weights_only=True)
    next(iter(changed.values())).view(-1)[0] += 1
    torch.save(changed, weights)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert [run(), run()] == [("computed", False), ("reused", True)]


def test_an_index_that_was_wrong_is_found_when_an_image_is_decoded(
    pixels: Extract, few: Path, seconds_later: None
) -> None:
    known = KnownFiles()
    name = "train/cat/1.png"
    look = Look(b"P" * 32)
    reader = header_reader(ImageRules())
    known.below(str(few)).add(name, (few / name).stat(), look, reader=reader)
    known.save()

    with pytest.raises(MismatchError, match=r"1\.png is not the file .* It changed since it was"):
        pixels()

    assert outcome(pixels) == ("computed", False)


@pytest.mark.parametrize("order", [("part", "whole"), ("whole", "part")])
def test_a_part_of_a_dataset_and_the_whole_are_never_taken_for_one_another(
    order: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar(tmp_path / "data", monkeypatch)
    options = {"backbone": "pixels", "image_size": 8, "n_workers": 0}
    run = partial(featcache.extract, cache_dir=tmp_path, data_dir=tmp_path / "data", **options)
    whole = featcache.load_dataset("cifar10", data_dir=tmp_path / "data")
    asked = {"part": whole.limited(1), "whole": "cifar10"}

    made = {name: run(asked[name]) for name in order}

    assert {name: (one.outcome, one.n_rows) for name, one in made.items()} == {
        "part": ("computed", 2),
        "whole": ("computed", 12),
    }
    assert [outcome(run, dataset=asked[name]) for name in order] == [("reused", True)] * 2
    assert {name: run(asked[name]).path for name in order} == {n: r.path for n, r in made.items()}


@pytest.mark.parametrize("damage", [b"", b"{}", b"featcache made 1\n"])
def test_a_damaged_recollection_is_passed_over(pixels: Extract, damage: bytes) -> None:
    pixels()
    folder = KnownFiles().file("", "x")
    assert folder is not None
    [file] = folder.parent.glob("*.made")
    file.write_bytes(damage)

    assert outcome(pixels) == ("reused", False)
    assert outcome(pixels) == ("reused", True)


def test_several_backbones_are_recalled_together(pixels: Extract, few: Path) -> None:
    asked = {"dataset": f"folder:{few}", "image_size": 32, "weights": "random", "n_workers": 0}
    asked["cache_dir"] = str(pixels().path.parent.parent)
    specs = [
        featcache.ExtractSpec(backbone=name, **asked)  # type: ignore[arg-type]
        for name in (SMALL_BACKBONE, "squeezenet1_1")
    ]
    notes: list[str] = []

    featcache.extract_all(specs[:1])
    first = featcache.extract_all(specs, on_note=notes.append)
    assert [result.outcome for result in first] == ["reused", "computed"]
    assert RECALLED not in notes
    again = featcache.extract_all(specs, on_note=notes.append)

    assert [result.outcome for result in again] == ["reused", "reused"]
    assert RECALLED in notes
