from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import featcache
from featcache.errors import (
    CorruptError,
    FeatcacheError,
    NonFiniteError,
    UnsafeFileError,
    UsageError,
)
from featcache.store.imports.import_features import ImportResult

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
        ({"n_classes": 2}, UsageError, "--n-classes is 2, but labels go from 0 to 2"),
        ({"n_classes": 0}, UsageError, "--n-classes is 0, expected 1 to 65536"),
        (
            {"n_classes": 4, "class_names": ("a", "b", "c")},
            UsageError,
            "has 3 names, but --n-classes is 4",
        ),
        ({"ids": "words"}, UsageError, "The id of row 3 of train, 'cat', is not unique"),
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


def relabel(foreign: Path, labels: object, *, features: object = None) -> None:
    with h5py.File(foreign, "r+") as h5:
        del h5["labels"]
        h5["labels"] = labels
        if features is not None:
            del h5["features"]
            h5["features"] = features


def test_what_is_taken_decides_the_fingerprint_as_it_always_did(
    import_: Import, foreign: Path
) -> None:
    relabel(foreign, np.arange(12) % 3, features=np.arange(60, dtype="f4").reshape(12, 5))
    with h5py.File(foreign, "r+") as h5:
        h5["ids"] = [f"é {i}" for i in range(12)]

    assert import_().fingerprint.startswith("95f6391f")
    assert import_(ids="ids").fingerprint.startswith("d1e252f6")


class TestASmallFile:
    """Of which a child could make gigabytes in this process."""

    def test_with_more_labels_than_rows_costs_no_memory(
        self, import_: Import, foreign: Path
    ) -> None:
        relabel(foreign, [0])
        with h5py.File(foreign, "r+") as h5:
            del h5["labels"]
            h5.create_dataset("labels", data=np.zeros(10_000_000, "i1"), compression=9)
        tracemalloc.start()

        with pytest.raises(UsageError, match="12 rows of features, 10000000 labels; expected as"):
            import_()

        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4_000_000

    def test_with_as_many_rows_as_labels_is_refused(self, import_: Import, foreign: Path) -> None:
        with h5py.File(foreign, "r+") as h5:
            h5.create_dataset("many", (1 << 26,), "i1", chunks=(1 << 20,), compression=1)
            h5.create_dataset("thin", (1 << 26, 1), "f2", chunks=(1 << 20, 1), compression=1)
            for start in range(0, 1 << 26, 1 << 20):
                h5["many"].id.write_direct_chunk((start,), zlib.compress(bytes(1 << 20)))
                h5["thin"].id.write_direct_chunk((start, 0), zlib.compress(bytes(2 << 20)))

        with pytest.raises(UnsafeFileError, match=r"has .* kB, but what it holds would take 5"):
            import_(features="thin", labels="many")


class TestLabels:
    def test_of_matlab_lie_on_their_side(self, import_: Import, foreign: Path) -> None:
        relabel(foreign, np.arange(12.0)[None] % 3)

        found = import_()

        assert featcache.open_cache(found.path)["train"].labels.tolist() == [0, 1, 2] * 4

    def test_beside_transposed_features_say_so(self, import_: Import, foreign: Path) -> None:
        relabel(foreign, np.arange(12.0)[None] % 3, features=np.ones((5, 12), "f4"))

        with pytest.raises(
            UsageError, match=r"Are the features transposed\? Their shape is \(5, 12"
        ):
            import_()

    def test_that_start_at_1_are_told(self, import_: Import, foreign: Path) -> None:
        relabel(foreign, np.arange(12) % 3 + 1)
        told: list[str] = []

        found = import_(on_note=told.append)

        assert found.class_names == ("0", "1", "2", "3")
        assert told == [
            "the labels go from 1 to 3, so there are 4 classes; without a row: 0. Do they count "
            "from 1? Then subtract 1."
        ]

    def test_that_start_at_1_do_not_fit_as_many_names(self, import_: Import, foreign: Path) -> None:
        relabel(foreign, np.arange(12) % 3 + 1)

        with pytest.raises(UsageError, match=r"labels go from 1 to 3\. .* Then subtract 1\."):
            import_(class_names=("a", "b", "c"))

    def test_with_gaps_make_no_classes_of_them(self, import_: Import, foreign: Path) -> None:
        relabel(foreign, np.array([7, 5000, 65535] * 4))

        with pytest.raises(UsageError) as err:
            import_()

        assert str(err.value) == (
            "The labels go from 7 to 65535, which makes 65536 classes, but only 3 of them have "
            "rows (without: 0 to 6, 8 to 4999, 5001 to 65534). Nothing was written. Do they count "
            "from 7? Then subtract 7. Number them anew with numpy.unique(labels, "
            "return_inverse=True). If so many classes are meant, say --n-classes 65536."
        )

    @pytest.mark.parametrize(
        "meant", [{"n_classes": 10}, {"class_names": tuple("abcdefghij")}], ids=str
    )
    def test_with_gaps_that_are_meant_are_taken_and_told(
        self, import_: Import, foreign: Path, meant: dict[str, Any]
    ) -> None:
        relabel(foreign, np.array([1, 2, 9] * 4))
        told: list[str] = []

        found = import_(on_note=told.append, **meant)

        assert len(found.class_names) == 10
        assert told == ["7 of 10 classes have no row: 0, 3 to 8"]

    @pytest.mark.parametrize("wrong", [-1, 0.5, 65536, np.nan])
    def test_that_are_none_are_named(self, import_: Import, foreign: Path, wrong: float) -> None:
        relabel(foreign, np.array([*range(11), wrong]))

        with pytest.raises(UsageError, match=f"from 0 to 65535, but row 11 has {wrong}"):
            import_()


@pytest.mark.parametrize(("start", "nbytes"), [(4096, 4096), (4300, 90), (0, 2048), (5000, 1)])
def test_a_cache_with_a_damaged_manifest_is_replaced(
    import_: Import, start: int, nbytes: int
) -> None:
    path = import_().path
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(nbytes) + content[start + nbytes :])

    again = import_()

    assert again.outcome == "imported"
    assert path.read_bytes() == content


def test_arguments_of_python_are_brought_to_their_types(import_: Import) -> None:
    assert import_(n_classes=np.int64(3)).class_names == ("0", "1", "2")
    with pytest.raises(UsageError, match=r"--n-classes is '3', but must be a whole number"):
        import_(n_classes="3")
    with pytest.raises(UsageError):  # one name for three classes, not three letters
        import_(class_names="abc")
