"""Foreign Parquet, npz and safetensors files: columns by name, splits by a column, no pickles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from pyarrow import parquet

import featcache
from featcache.errors import (
    CorruptError,
    FeatcacheError,
    NonFiniteError,
    UnsafeFileError,
    UsageError,
)
from featcache.store import Cache

Import = Callable[..., Cache]
X = np.random.default_rng(0).random((9, 4), np.float32)
Y = np.arange(9) % 3
SPLITS = ["train", "val", "train", "test"] * 2 + ["train"]
IN_TRAIN = [0, 2, 4, 6, 8]


@pytest.fixture
def import_(tmp_path: Path) -> Import:
    def run(path: Path, **options: Any) -> Cache:
        options.setdefault("cache_dir", tmp_path / "cache")
        return featcache.open_cache(featcache.import_features(path, **options).path)

    return run


def write_parquet(path: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_a_parquet_file_with_a_column_of_splits(tmp_path: Path, import_: Import) -> None:
    path = write_parquet(
        tmp_path / "clip.parquet", x=[*X], y=Y, key=[f"k{i}" for i in range(9)], part=SPLITS
    )

    cache = import_(path, features="x", labels="y", ids="key", split="part")

    assert list(cache.splits) == ["train", "val", "test"]
    np.testing.assert_array_equal(cache["train"].features, X[IN_TRAIN])
    assert cache["train"].labels is not None
    assert cache["train"].labels.tolist() == Y[IN_TRAIN].tolist()
    assert cache["val"].ids == ["k1", "k5"]
    assert cache.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    "x",
    [
        pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 4),
        pa.array(X.tolist(), pa.list_(pa.float64())),
        pa.array(X.tolist(), pa.large_list(pa.float32())),
    ],
)
def test_features_may_be_lists_of_any_kind(tmp_path: Path, import_: Import, x: Any) -> None:
    cache = import_(write_parquet(tmp_path / "a.parquet", x=x), features="x")

    np.testing.assert_array_equal(cache["train"].features, X)
    assert cache["train"].labels is None
    assert cache["train"].ids == [str(i) for i in range(9)]
    assert cache.class_names == ()


def test_a_compressed_npz_without_labels(tmp_path: Path, import_: Import) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X.astype(np.float64), ids=np.arange(100, 109), s=np.array(SPLITS))

    cache = import_(path, features="x", ids="ids", split="s")

    np.testing.assert_array_equal(cache["val"].features, X[[1, 5]])
    assert cache["val"].ids == ["101", "105"]


def test_safetensors_with_labels(tmp_path: Path, import_: Import) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"x": X.astype(np.float16), "y": Y}, path)

    cache = import_(path, features="x", labels="y", class_names=("a", "b", "c"))

    np.testing.assert_array_equal(cache["train"].features, X.astype(np.float16))
    assert cache.class_names == ("a", "b", "c")


def test_an_hdf5_file_may_lack_labels_too(tmp_path: Path, import_: Import) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["x"] = X

    cache = import_(tmp_path / "a.h5", features="x")

    np.testing.assert_array_equal(cache["train"].features, X)
    assert cache["train"].labels is None


def test_the_same_rows_give_the_same_cache_whatever_the_file(
    tmp_path: Path, import_: Import
) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    safetensors.numpy.save_file({"x": X, "y": Y}, tmp_path / "a.safetensors")
    write_parquet(tmp_path / "a.parquet", x=[*X], y=Y)

    found = {
        import_(tmp_path / f"a.{ending}", features="x", labels="y").fingerprint
        for ending in ("npz", "safetensors", "parquet")
    }

    assert len(found) == 1


def test_a_file_that_is_no_export_asks_for_its_columns(tmp_path: Path, import_: Import) -> None:
    np.savez(tmp_path / "a.npz", x=X)

    with pytest.raises(UsageError, match=r"was not exported from a cache.*--features"):
        import_(tmp_path / "a.npz")


def object_array(path: Path) -> None:
    np.savez(path, x=np.array([{"a": 1}] * 3, dtype=object), allow_pickle=True)


def by_columns(path: Path) -> None:
    np.savez(path, x=np.asfortranarray(X))


def cut_short(path: Path) -> None:
    np.savez(path, x=np.zeros((1000, 100), np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[:2000] + whole[4000:])


def flipped(path: Path) -> None:
    np.savez(path, x=np.zeros((1000, 100), np.float32))
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)


def bomb(path: Path) -> None:
    np.savez_compressed(path, x=np.zeros((1 << 22, 2), np.float16))


@pytest.mark.parametrize(
    ("write", "error", "text"),
    [
        (object_array, UnsafeFileError, "holds neither numbers nor text"),
        (by_columns, UsageError, "stored by columns"),
        (cut_short, CorruptError, "damaged"),
        (flipped, CorruptError, "Bad CRC-32"),
        (bomb, UnsafeFileError, "would take .* of memory"),
    ],
)
def test_an_npz_that_is_not_taken(
    tmp_path: Path,
    import_: Import,
    write: Callable[[Path], None],
    error: type[FeatcacheError],
    text: str,
) -> None:
    write(tmp_path / "a.npz")

    with pytest.raises(error, match=text):
        import_(tmp_path / "a.npz", features="x")

    assert not list(tmp_path.glob("cache/**/*.h5*"))


@pytest.mark.parametrize(
    ("raw", "error", "text"),
    [
        (b"\xff" * 8, CorruptError, "its header is longer than the file"),
        (b"\x02" + b"\0" * 7 + b"{{", CorruptError, "JSONDecodeError"),
        (
            {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}},
            CorruptError,
            "has other bytes than its shape says",
        ),
        (
            {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}},
            CorruptError,
            "'x' ends early",
        ),
        (
            {"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}},
            UsageError,
            "which NumPy does not have",
        ),
        ({"y": {}}, UsageError, r"it has no tensor 'x'.*It has y"),
        ({"x": []}, CorruptError, "damaged"),
    ],
)
def test_safetensors_that_are_not_taken(
    tmp_path: Path, import_: Import, raw: Any, error: type[FeatcacheError], text: str
) -> None:
    if isinstance(raw, dict):
        head = json.dumps(raw).encode()
        raw = len(head).to_bytes(8, "little") + head + b"\0" * 8
    (tmp_path / "a.safetensors").write_bytes(raw)

    with pytest.raises(error, match=text):
        import_(tmp_path / "a.safetensors", features="x")


@pytest.mark.parametrize(
    ("columns", "options", "error", "text"),
    [
        ({"x": [[1.0, 2.0], [3.0]]}, {}, UsageError, "different lengths"),
        ({"x": [[1.0], None]}, {}, UsageError, "rows without a value"),
        ({"x": ["a", "b"]}, {}, UsageError, "cannot be features"),
        ({"x": [[1.0], [float("nan")]]}, {}, NonFiniteError, "Row 1"),
        ({"x": [[1.0]] * 2, "y": [0, -1]}, {"labels": "y"}, UsageError, "row 1 has -1"),
        ({"x": [[1.0]] * 2, "y": ["a", "b"]}, {"labels": "y"}, UsageError, "--class-names"),
        ({"x": [[1.0]] * 2, "k": ["a", "a"]}, {"ids": "k"}, UsageError, "'a' of train is"),
        ({"x": [[1.0]] * 2, "s": ["a b", "c"]}, {"split": "s"}, UsageError, "e.g. 'a b'"),
        ({"x": [[1.0]]}, {"labels": "z"}, UsageError, r"no column 'z'.*It has x"),
        ({"x": [[1.0]]}, {"test_features": "x"}, UsageError, "for HDF5 files"),
        ({"x": [[1.0]]}, {"n_classes": 3}, UsageError, "need --labels"),
        ({"x": [[1.0]] * 2, "k": ["a" * 2000, "b"]}, {"ids": "k"}, UsageError, "longer than 1024"),
    ],
)
def test_a_parquet_file_that_is_not_taken(
    tmp_path: Path,
    import_: Import,
    columns: dict[str, Any],
    options: dict[str, Any],
    error: type[FeatcacheError],
    text: str,
) -> None:
    path = write_parquet(tmp_path / "a.parquet", **columns)

    with pytest.raises(error, match=text):
        import_(path, features="x", **options)


def test_a_damaged_parquet_file_is_told(tmp_path: Path, import_: Import) -> None:
    path = write_parquet(tmp_path / "a.parquet", x=[*X])
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(CorruptError, match=r"a\.parquet is damaged"):
        import_(path, features="x")
