"""Files with several views of each image: read as the plain ones, and refused where they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.errors import CorruptError
from featcache.store import open_cache, read_state, split, summarise, verify_cache
from featcache.store.exports.export_features import EXPORT_FORMATS, export_features
from featcache.store.imports.import_features import import_features
from tests.faults.hostile_files import resigned
from tests.store.conftest import MakeRecipe, Recipe, random_rows

VIEWS = {"n": 3, "augment": ["flip", "crop"], "of": "train", "seed": 0}


@pytest.fixture
def viewed(make_recipe: MakeRecipe) -> Recipe:
    """A cache of 10 rows of 3 views of 5 features, and 3 rows of one."""
    return make_recipe(
        splits={"train": random_rows(10, 3, 5, reasons={3: "cut"}), "test": random_rows(3, 5)},
        identity={"backbone": "toy", "seed": 0, "views": VIEWS},
        reference=np.arange(10, dtype=np.float32).reshape(2, 5),
    )


def test_a_cache_of_views_has_the_length_of_one(viewed: Recipe) -> None:
    wanted = viewed.splits["train"].features

    cache = open_cache(viewed.build())

    assert cache.n_features == summarise(viewed.path).n_features == 5
    assert {name: rows.n_views for name, rows in cache.splits.items()} == {"train": 3, "test": 1}
    assert cache["train"].views.tolist() == wanted.tolist()
    assert cache["train"].features.tolist() == wanted[:, 0].tolist()
    assert cache["test"].views.tolist() == viewed.splits["test"].features[:, None].tolist()
    features, labels = cache["train"].arrays()
    assert labels is not None
    assert (features.shape, labels.shape) == ((9, 5), (9,))
    assert verify_cache(viewed.path).is_sound


def test_rows_are_read_in_parts_into_the_callers_memory(
    viewed: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = open_cache(viewed.build())["train"]
    monkeypatch.setattr(split, "_BYTES_AT_ONCE", 2 * 3 * 5 * 4)
    plain, single = np.empty((7, 5), "<f4"), np.empty((4, 5), "<f4")

    rows.read(2, 9, out=plain)
    rows.read_views(5, 9, out=single)

    assert plain.tolist() == viewed.splits["train"].features[2:9, 0].tolist()
    assert single.tolist() == viewed.splits["train"].features.reshape(30, 5)[5:9].tolist()


def with_identity(**changed: Any) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: dict[str, Any]) -> None:
        from featcache.core.identity import fingerprint

        manifest["identity"]["views"] |= changed
        manifest["fingerprint"] = fingerprint(manifest["identity"])

    return edit


def shaped(*shape: int, dtype: str = "<f4") -> Callable[[dict[str, Any]], None]:
    def edit(manifest: dict[str, Any]) -> None:
        features = manifest["splits"][0]["columns"]["features"]
        features |= {"shape": list(shape), "dtype": dtype}

    return edit


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (with_identity(n=5), "not of 5 views"),
        (with_identity(n=10**15), f"not of {10**15} views"),
        (with_identity(of="all"), "features of split 'test' .* not of 3 views"),
        (with_identity(of="test"), "3 views of 'test'"),
        (with_identity(n=1), "1 views of 'train'"),
        (with_identity(n="3"), "where views were expected"),
        (with_identity(n=True), "where views were expected"),
        (with_identity(seed=-1), "where views were expected"),
        (with_identity(augment="flip"), "where views were expected"),
        (shaped(10, 5), "not of 3 views"),
        (shaped(10, 5, 3), "not of 3 views"),
        (shaped(10, 3, 5, 1), "not of 3 views"),
        (shaped(10, 3, 5, dtype="|u1"), "not of 3 views"),
    ],
)
def test_features_that_are_not_of_the_views_that_the_identity_says_are_refused(
    viewed: Recipe, edit: Callable[[dict[str, Any]], None], why: str
) -> None:
    path = viewed.build()
    path.write_bytes(resigned(path.read_bytes(), edit))

    with pytest.raises(CorruptError, match=why):
        open_cache(path)


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_an_exported_file_has_the_plain_view_and_is_imported_as_such(
    viewed: Recipe, format: str, tmp_path: Path
) -> None:
    plain = viewed.splits["train"].features[:, 0]
    notes: list[str] = []

    exported = export_features(viewed.build(), format=format, out=tmp_path / f"rows.{format}")
    imported = import_features(exported.path, cache_dir=tmp_path / "other", on_note=notes.append)

    assert (exported.n_features, imported.n_features) == (5, 5)
    cache = open_cache(imported.path)
    assert "views" not in cache.identity
    features = cache["train"].features
    assert features.tolist() == np.delete(plain, 3, axis=0).tolist()
    assert any(
        note.endswith("but has just the plain view of each image, of 3: imported as it is")
        for note in notes
    )


def test_a_block_of_a_file_of_views_has_all_of_them(viewed: Recipe) -> None:
    path = viewed.build()
    extent = read_state(path).manifest.splits["train"].columns["features"]
    with path.open("r+b") as file:
        file.seek(extent.rows(5, 6)[0] + extent.row_nbytes - 1)  # the last view
        file.write(b"\xff")

    [damage] = verify_cache(path).damages

    assert (damage.split, damage.first_row, damage.last_row) == ("train", 4, 7)
