"""A cache as Parquet, npz or safetensors: others read it, and it becomes the cache again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors
import safetensors.numpy
from pyarrow import parquet

import featcache
from featcache.errors import CorruptError, UsageError
from featcache.store import NumericClass, read_state
from featcache.store.exports.export_features import EXPORT_FORMATS
from tests.store.conftest import MakeRecipe, Recipe, Rows, random_rows

Imported = Callable[..., Any]


@pytest.fixture
def rich(make_recipe: MakeRecipe) -> Recipe:
    """Everything that a file of version 2 can hold."""
    train = random_rows(10, 5, dtype="<f2", reasons={3: "truncated", 9: "größer"})
    train.ids = [f"caf\udce9/{i}.jpg" for i in range(10)]
    train.image_sha256 = np.random.default_rng(1).integers(0, 256, (10, 32), dtype=np.uint8)
    test = random_rows(3, 5, dtype="<f2")
    test.image_sha256 = train.image_sha256[:3]
    return make_recipe(
        splits={"train": train, "test": test},
        class_names=("ant", "bee", "kühe"),
        statistics=np.arange(7, dtype=np.float32),
        reference=np.arange(10, dtype=np.float32).reshape(2, 5),
    )


@pytest.fixture
def plain(make_recipe: MakeRecipe) -> Recipe:
    """Images without labels, in one split."""
    rows = Rows(
        np.arange(6 * 12, dtype=np.uint8).reshape(6, 2, 2, 3), None, [str(i) for i in range(6)]
    )
    return make_recipe(splits={"all": rows}, class_names=(), has_reasons=False)


def build(recipe: Recipe) -> Path:
    """Write it, with a block of another numeric class."""
    with recipe.create() as writer:
        first, *rest = writer.pending()
        recipe.write(writer, [first], commit=False)
        writer.commit(NumericClass.from_json({"precision": "tf32"}))
        recipe.write(writer, rest)
        writer.finish()
    return recipe.path


def exported(path: Path, format: str, split: str | None = None) -> Path:
    out = path.with_name(f"toy.{format}")
    out.unlink(missing_ok=True)
    return featcache.export_features(path, format=format, out=out, split=split).path


@pytest.fixture
def imported(tmp_path: Path) -> Imported:
    def run(path: Path, **options: Any) -> tuple[Any, list[str]]:
        notes: list[str] = []
        options.setdefault("cache_dir", tmp_path / "again")
        return featcache.import_features(path, on_note=notes.append, **options), notes

    return run


@pytest.mark.parametrize("kind", ["rich", "plain"])
@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_an_exported_cache_becomes_the_same_file_again(
    format: str, kind: str, imported: Imported, request: pytest.FixtureRequest
) -> None:
    path = build(request.getfixturevalue(kind))

    result, notes = imported(exported(path, format))

    assert result.path.read_bytes() == path.read_bytes()
    assert result.path.parent.name == "toys"
    assert result.fingerprint == featcache.open_cache(path).fingerprint
    assert len(read_state(result.path).foreign_blocks) == 1
    assert (result.outcome, notes) == ("imported", [])


def test_it_is_reused_and_a_damaged_one_is_replaced(rich: Recipe, imported: Imported) -> None:
    path = build(rich)
    file = exported(path, "npz")
    first, _ = imported(file)

    assert imported(file)[0].outcome == "reused"
    raw = bytearray(path.read_bytes())
    raw[raw.index(rich.splits["train"].features[0].tobytes())] ^= 1
    first.path.write_bytes(raw)

    assert imported(file)[0].outcome == "imported"
    assert first.path.read_bytes() == path.read_bytes()


def test_the_same_cache_gives_the_same_bytes(rich: Recipe) -> None:
    path = build(rich)

    for format in EXPORT_FORMATS:
        assert exported(path, format).read_bytes() == exported(path, format).read_bytes()


@pytest.mark.parametrize("label", [3, -1])
@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_a_label_that_names_no_class_is_refused(rich: Recipe, format: str, label: int) -> None:
    labels = rich.splits["train"].labels
    assert labels is not None
    labels[4] = label
    path = build(rich)

    with pytest.raises(
        CorruptError, match=rf"'train' \(1 of them\) are not within 0\.\.2 \(row 4 has {label}\)"
    ):
        exported(path, format)
    assert not path.with_name(f"toy.{format}").exists()


def test_a_file_that_was_made_meanwhile_is_not_overwritten(
    rich: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build(rich)
    out, fsync = path.with_name("toy.npz"), os.fsync

    def late(fd: int) -> None:
        out.write_bytes(b"theirs")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", late)

    with pytest.raises(UsageError, match=r"toy\.npz exists\. Nothing was written\. Remove it"):
        featcache.export_features(path, format="npz", out=out)
    assert out.read_bytes() == b"theirs"


def test_npz_is_read_by_numpy_alone(rich: Recipe) -> None:
    file = exported(build(rich), "npz")

    with np.load(file, allow_pickle=False) as found:
        rows = {name: found[name] for name in found}

    train, test = rich.splits["train"], rich.splits["test"]
    np.testing.assert_array_equal(rows["features"][:10][train_valid(train)], valid_rows(train))
    np.testing.assert_array_equal(rows["features"][10:], test.features)
    assert rows["label"].tolist() == [*train.labels, *test.labels]  # type: ignore[misc]
    assert rows["split"].tolist() == [b"train"] * 10 + [b"test"] * 3
    assert rows["class_name"][:3].tolist() == [b"ant", b"bee", "kühe".encode()]
    assert rows["id"].tolist()[0] == b"caf\xe9/0.jpg"
    assert rows["valid"].tolist() == [i not in (3, 9) for i in range(13)]
    assert rows["reason"][3] == b"truncated"
    np.testing.assert_array_equal(rows["image_sha256"][10:], test.image_sha256)
    about = json.loads(rows["featcache"].tobytes())
    assert about["identity"] == {"backbone": "toy", "seed": 0}
    assert [block[3] for block in about["blocks"]] == [
        slot.sha256.hex() for n, slot in sorted(read_state(rich.path).slots.items()) if n > 2
    ]


def train_valid(rows: Rows) -> Any:
    return np.array([i not in rows.reasons for i in range(len(rows.ids))])


def valid_rows(rows: Rows) -> Any:
    return rows.features[train_valid(rows)]


def test_safetensors_are_read_by_their_own_package(rich: Recipe) -> None:
    file = exported(build(rich), "safetensors")

    rows = safetensors.numpy.load_file(file)

    np.testing.assert_array_equal(rows["features"][10:], rich.splits["test"].features)
    assert rows["label"][:3].tolist() == [0, 1, 2]
    assert rows["id"][0].tobytes().rstrip(b"\0") == b"caf\xe9/0.jpg"
    with safetensors.safe_open(file, "numpy") as opened:
        assert json.loads(opened.metadata()["featcache"])["class_names"] == ["ant", "bee", "kühe"]


def test_parquet_is_read_by_pyarrow_in_row_groups_of_blocks(rich: Recipe) -> None:
    file = exported(build(rich), "parquet")

    table = parquet.read_table(file)

    features = np.stack(table["features"].to_numpy())
    np.testing.assert_array_equal(features[10:], rich.splits["test"].features)
    assert table.schema.field("features").type == pa.list_(pa.float16(), 5)
    assert table["class_name"].to_pylist()[:3] == ["ant", "bee", "kühe"]
    assert table["id"].to_pylist()[0] == b"caf\xe9/0.jpg"
    assert table["reason"].to_pylist()[9] == "größer"
    assert parquet.ParquetFile(file).num_row_groups == 4


def test_one_split_is_imported_as_a_part_and_says_so(recipe: Recipe, imported: Imported) -> None:
    path = recipe.build()

    result, notes = imported(exported(path, "parquet", split="train"))

    cache = featcache.open_cache(result.path)
    np.testing.assert_array_equal(cache["train"].features, valid_rows(recipe.splits["train"]))
    assert cache["train"].ids == [f"class {i % 3}/image-{i}.png" for i in range(10) if i != 3]
    assert cache.class_names == ("ant", "bee", "cow")
    fingerprint = featcache.open_cache(path).fingerprint
    said = f"toy-{fingerprint[:8]} of toys, but has just train of it"
    assert cache.provenance["claims"] == said
    assert said in notes[0]
    assert cache.identity.backbone == "imported"


def test_a_changed_row_is_imported_as_what_it_is(recipe: Recipe, imported: Imported) -> None:
    path = recipe.build()
    file = exported(path, "npz")
    with np.load(file) as found:
        rows = {name: found[name] for name in found}
    rows["features"][5, 0] += 1
    np.savez(file, **rows)

    result, notes = imported(file)

    assert "1 of its 4 blocks differ, the first with train rows 4 to 7" in notes[0]
    cache = featcache.open_cache(result.path)
    assert cache.identity.backbone == "imported"
    assert "1 of its 4 blocks differ" in cache.provenance["claims"]
    np.testing.assert_array_equal(cache["test"].features, recipe.splits["test"].features)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slug", "../elsewhere"),
        ("rows_per_block", 0),
        ("splits", [{"name": "train", "n_rows": -1, "columns": {}}]),
        ("identity", {"backbone": "../x"}),
        ("exported", ["nowhere"]),
        ("parts", {"trunk": ["", ""]}),
        ("blocks", [["train", 0, 4, "zz", ""]]),
        ("numerics", None),
    ],
)
def test_claims_that_no_export_makes_are_refused(
    recipe: Recipe, imported: Imported, tmp_path: Path, field: str, value: Any
) -> None:
    file = exported(recipe.build(), "safetensors")
    changed = with_about(file, {field: value})

    with pytest.raises(CorruptError, match=r"no export would|damaged|other rows"):
        imported(changed)

    assert not list(tmp_path.glob("again/**/*.h5*"))


def with_about(file: Path, changes: dict[str, Any]) -> Path:
    """Change what a file of safetensors says of its cache."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + length])
    about = json.loads(head["__metadata__"]["featcache"]) | changes
    head["__metadata__"]["featcache"] = json.dumps(about)
    text = json.dumps(head).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    return file


def test_another_identity_is_imported_as_what_it_is_only_if_its_rows_are_claimed(
    recipe: Recipe, imported: Imported
) -> None:
    """Digests say which rows; nothing in a file can say who computed them."""
    file = exported(recipe.build(), "safetensors")

    result, _ = imported(with_about(file, {"class_names": ["a", "b"]}))

    assert featcache.open_cache(result.path).class_names == ("a", "b")


def test_more_rows_than_there_are_is_damage(recipe: Recipe, imported: Imported) -> None:
    file = exported(recipe.build(), "safetensors")
    about = json.loads(safetensors.safe_open(file, "numpy").metadata()["featcache"])
    about["splits"][0]["n_rows"] = 1 << 50

    with pytest.raises(CorruptError, match="other rows than it says"):
        imported(with_about(file, {"splits": about["splits"]}))


def test_a_file_that_is_there_is_not_written_over(recipe: Recipe, tmp_path: Path) -> None:
    path, out = recipe.build(), tmp_path / "x.npz"
    out.write_text("mine")

    with pytest.raises(UsageError, match=r"exists\. Nothing was written"):
        featcache.export_features(path, format="npz", out=out)

    assert out.read_text() == "mine"


def test_a_split_that_is_not_there_and_a_format_that_is_none_are_refused(
    recipe: Recipe, tmp_path: Path
) -> None:
    path = recipe.build()

    with pytest.raises(UsageError, match=r"has no split 'trian'. Did you mean train\?"):
        featcache.export_features(path, format="npz", out=tmp_path / "x", split="trian")
    with pytest.raises(UsageError, match="parquet, npz, safetensors"):
        featcache.export_features(path, format="csv", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_damaged_cache_is_not_exported(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.build()
    raw = bytearray(path.read_bytes())
    raw[raw.index(recipe.splits["test"].features[1].tobytes())] ^= 1
    path.write_bytes(raw)

    with pytest.raises(CorruptError, match="test rows 0 to 2"):
        featcache.export_features(path, format="npz", out=tmp_path / "x.npz")

    assert not (tmp_path / "x.npz").exists()


def test_without_pyarrow_the_line_that_installs_it_is_told(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe.build()
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(UsageError, match=r'pip install "featcache\[parquet\]"'):
        featcache.export_features(path, format="parquet", out=tmp_path / "x.parquet")


def test_arrays_are_the_valid_rows_mapped_where_all_are(recipe: Recipe) -> None:
    cache = featcache.open_cache(recipe.build())

    features, labels = cache["test"].arrays()
    assert isinstance(features, np.memmap)
    np.testing.assert_array_equal(features, recipe.splits["test"].features)
    np.testing.assert_array_equal(labels, [0, 1, 2])

    features, labels = cache["train"].arrays()
    np.testing.assert_array_equal(features, valid_rows(recipe.splits["train"]))
    np.testing.assert_array_equal(labels, np.delete(np.arange(10) % 3, 3))


def test_arrays_of_images_are_flat_and_have_no_labels_where_there_are_none(plain: Recipe) -> None:
    features, labels = featcache.open_cache(plain.build())["all"].arrays()

    assert features.shape == (6, 12)
    assert labels is None
