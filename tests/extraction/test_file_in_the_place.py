from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.errors import CorruptError, LockedError, MismatchError
from featcache.store import locked
from tests.conftest import save_image
from tests.extraction.conftest import Extract
from tests.extraction.interruptions import interrupt
from tests.faults.hostile_files import resigned


def test_a_changed_dataset_makes_another_cache_and_is_told(
    extract: Extract, image_folder: Path
) -> None:
    first = extract()
    save_image(image_folder / "train" / "cat" / "001.png", seed=77)
    notes: list[str] = []

    second = extract(on_note=notes.append)

    assert second.outcome == "computed"
    assert second.path != first.path
    assert any("dataset_sha256: found" in n and first.path.name in n for n in notes)


def test_a_file_of_another_identity_in_the_place_is_refused(
    extract: Extract, tmp_path: Path
) -> None:
    path = extract(limit=4).path
    other = extract(limit=4, image_size=40).path
    path.unlink()
    other.rename(path)

    with pytest.raises(
        MismatchError, match=r"preprocess\.resize: found \[40,40\], wanted \[32,32\]"
    ):
        extract(limit=4)
    assert path.exists()


def _other_shape(manifest: dict[str, Any]) -> None:
    manifest["splits"][0]["columns"]["features"]["shape"] = [12, 192]


def _other_type(manifest: dict[str, Any]) -> None:
    manifest["splits"][0]["columns"]["features"] |= {"shape": [12, 8, 4, 3], "dtype": "<f2"}


def _other_split(manifest: dict[str, Any]) -> None:
    manifest["splits"][0]["name"] = "other"


def _other_order(manifest: dict[str, Any]) -> None:
    manifest["splits"].reverse()


def _other_classes(manifest: dict[str, Any]) -> None:
    manifest["class_names"] = ["cat"]


@pytest.mark.parametrize("suffix", ["", ".partial"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_other_shape, r'train\.features: found \[12,192,"\|u1"\], wanted \[12,8,8,3,"\|u1"\]'),
        (_other_type, r'train\.features: found \[12,8,4,3,"<f2"\]'),
        (_other_split, r'splits: found \["other","test"\]'),
        (_other_order, r'splits: found \["test","train"\]'),
        (_other_classes, r'class_names: found \["cat"\], wanted \["cat","dog"\]'),
    ],
)
def test_a_file_of_the_same_identity_and_another_layout_is_refused(
    extract: Extract, suffix: str, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    asked = {"backbone": "pixels", "weights": "DEFAULT", "image_size": 8, "limit": 12}
    good = extract(**asked).path
    path = good.with_name(good.name + suffix)
    path.write_bytes(resigned(good.read_bytes(), edit))
    if suffix:
        good.unlink()
    before = path.read_bytes()

    with pytest.raises(CorruptError, match=f"claims to hold this cache, .* {message}"):
        extract(**asked)

    assert path.read_bytes() == before


def test_a_locked_cache_is_refused_and_untouched(extract: Extract, small_blocks: None) -> None:
    interrupt(extract, 4)
    [partial] = featcache.list_caches(extract.keywords["cache_dir"])  # type: ignore[attr-defined]
    before = partial.path.read_bytes()

    with (
        locked(partial.path.with_suffix("")),
        pytest.raises(LockedError, match=f"process {os.getpid()} on"),
    ):
        extract()

    assert partial.path.read_bytes() == before
