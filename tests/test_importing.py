from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import featcache
from featcache.errors import CorruptError, FeatcacheError, NonFiniteError, UsageError
from featcache.importing import ImportResult

Import = Callable[..., ImportResult]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Features of twelve images in three classes, as another program may have left them."""
    rng = np.random.default_rng(0)
    path = tmp_path / "of another.h5"
    with h5py.File(path, "w") as h5:
        h5["features"] = rng.random((12, 5), np.float32)
        h5["labels"] = np.arange(12) % 3
        h5["words"] = np.array([b"cat", b"dog", b"fox"] * 4)
        h5["test/features"] = rng.random((4, 5), np.float32)
        h5["test/labels"] = np.arange(4) % 3
    return path


@pytest.fixture
def import_(foreign: Path, tmp_path: Path) -> Import:
    def run(**options: Any) -> ImportResult:
        asked = {"features": "features", "labels": "labels", "cache_dir": tmp_path / "cache"}
        return featcache.import_features(foreign, **{**asked, **options})

    return run


def flip_a_row(path: Path) -> None:
    cache = featcache.open_cache(path)
    row = np.array(cache["train"].features[3]).tobytes()
    raw = bytearray(path.read_bytes())
    raw[raw.index(row)] ^= 1
    path.write_bytes(raw)


def test_importing_twice_reuses(import_: Import) -> None:
    first = import_()
    content = first.path.read_bytes()

    second = import_()

    assert (first.outcome, second.outcome) == ("imported", "reused")
    assert second.path.read_bytes() == content


def test_a_damaged_cache_says_to_import_again_and_that_replaces_it(import_: Import) -> None:
    path = import_().path
    content = path.read_bytes()
    flip_a_row(path)

    report = featcache.verify_cache(path)
    with pytest.raises(UsageError, match=r"Import its source again, as it was made"):
        featcache.repair_cache(path)
    again = import_()

    assert not report.is_sound
    assert report.mend_with == "featcache cache import, as it was made; it replaces a damaged cache"
    assert again.outcome == "imported"
    assert path.read_bytes() == content
    assert featcache.verify_cache(path).is_sound


def test_a_strangers_file_in_its_place_is_not_replaced(import_: Import) -> None:
    path = import_().path
    path.write_text("my own notes")

    with pytest.raises(CorruptError, match="is not an HDF5 file"):
        import_()

    assert path.read_text() == "my own notes"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"labels": "words"}, UsageError, "'words' holds text, but labels must be whole numbers"),
        ({"labels": "label"}, UsageError, "no dataset 'label'. Did you mean labels"),
        ({"class_names": ("a", " ", "c")}, UsageError, "has a name twice, or a blank one"),
        ({"class_names": ("a", "a", "b")}, UsageError, "has a name twice, or a blank one"),
        ({"class_names": ("a", "b")}, UsageError, "2 names, but labels go from 0 to 2"),
        ({"test_features": "test/features"}, UsageError, "belong together"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(
    import_: Import, tmp_path: Path, options: dict[str, Any], error: type, text: str
) -> None:
    with pytest.raises(error, match=text) as err:
        import_(**options)

    assert "Nothing was written." in str(err.value)
    assert list((tmp_path / "cache").rglob("*.h5*")) == []


def test_a_bad_number_is_named_with_its_split(import_: Import, foreign: Path) -> None:
    with h5py.File(foreign, "r+") as h5:
        h5["test/features"][2, 1] = np.nan

    with pytest.raises(NonFiniteError, match="Row 2 of test holds NaN"):
        import_(test_features="test/features", test_labels="test/labels")


def test_a_file_of_another_kind_is_no_damaged_one(import_: Import, foreign: Path) -> None:
    foreign.write_text("a, b, c\n1, 2, 3\n" * 100)

    with pytest.raises(FeatcacheError, match="it is not an HDF5 file") as err:
        import_()

    assert isinstance(err.value, UsageError)
