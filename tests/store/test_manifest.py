import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featcache.errors import CorruptError, MismatchError, UsageError
from featcache.store import (
    CacheWriter,
    SplitPlan,
    open_cache,
    read_state,
    rows_per_block,
    verify_cache,
)
from featcache.store.manifest import HEADER_LENGTH, MANIFEST_OFFSET, Manifest
from featcache.store.manifest_parser import parse_header, parse_manifest
from tests.faults.hostile_files import resigned
from tests.store.conftest import MakeRecipe, Recipe, random_rows


def datasets_of(path: Path) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    h5 = h5py.File(path, "r")
    h5.visititems(
        lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {})
    )
    return found


def manifest_of(path: Path) -> Manifest:
    return read_state(path).manifest


def test_the_superblock_is_version_2(built: Path) -> None:
    raw = built.read_bytes()

    assert raw[:8] == b"\x89HDF\r\n\x1a\n"
    assert raw[8] == 2


def test_every_dataset_is_contiguous_allocated_unfiltered_and_without_times(built: Path) -> None:
    datasets = datasets_of(built)

    properties = {name: d.id.get_create_plist() for name, d in datasets.items()}

    assert len(datasets) == 2 + 2 * 5
    for name, dataset in datasets.items():
        assert properties[name].get_layout() == h5py.h5d.CONTIGUOUS, name
        assert properties[name].get_nfilters() == 0, name
        assert not properties[name].get_obj_track_times(), name
        assert dataset.id.get_offset() is not None, name
        assert dataset.id.get_storage_size() == dataset.size * dataset.dtype.itemsize, name


def test_no_part_of_the_file_has_variable_length_or_attributes(built: Path) -> None:
    datasets = datasets_of(built)

    n_attributes = sum(len(d.attrs) + len(d.parent.attrs) for d in datasets.values())
    variable = [n for n, d in datasets.items() if d.dtype.kind == "O"]

    assert n_attributes == 0
    assert variable == []


def test_the_same_rows_give_the_same_bytes(make_recipe: MakeRecipe) -> None:
    first = make_recipe("toys/first.h5").build()
    time.sleep(1.01 - time.time() % 1)  # HDF5's times, if it kept any, count whole seconds

    second = make_recipe("toys/second.h5").build()

    assert first.read_bytes() == second.read_bytes()


def test_the_manifest_begins_at_byte_4096_and_is_canonical_json(built: Path) -> None:
    raw = built.read_bytes()[MANIFEST_OFFSET:]
    header, rest = raw[:HEADER_LENGTH], raw[HEADER_LENGTH:]

    length, sha256 = parse_header(header, name=built.name)

    body = rest[:length]
    assert MANIFEST_OFFSET == 4096
    assert header.startswith(b"featcache manifest v001 length=")
    assert hashlib.sha256(body).hexdigest() == sha256
    assert json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode() == body


def test_the_manifest_says_where_hdf5_put_every_dataset(built: Path) -> None:
    manifest = manifest_of(built)

    places = {
        f"{split}/{column}": (extent.offset, extent.shape)
        for split, layout in manifest.splits.items()
        for column, extent in layout.columns.items()
    }
    places["ledger"] = (manifest.ledger.offset, manifest.ledger.shape)

    found = {n: (d.id.get_offset(), d.shape) for n, d in datasets_of(built).items()}
    del found["manifest"]
    assert found == places


def test_large_features_start_at_a_multiple_of_8_mib_behind_all_else_but_the_ids(
    make_recipe: MakeRecipe,
) -> None:
    half = 8 << 20  # float32 values of half of 64 MiB
    zeros = np.zeros((8, half // 8), "<f4")
    rows = random_rows(8, 1)
    rows.features = zeros
    recipe = make_recipe(splits={"train": rows, "test": rows})

    recipe.create().close()

    manifest = manifest_of(recipe.partial)
    columns = [layout.columns for layout in manifest.splits.values()]
    first = min(c["features"].offset for c in columns)
    head = [c[n].offset for c in columns for n in ("labels", "valid", "reason")]
    assert [c["features"].offset % (8 << 20) for c in columns] == [0, 0]
    assert max(*head, manifest.ledger.offset) < first == 8 << 20
    assert min(c["ids"].offset for c in columns) > max(c["features"].offset for c in columns)
    assert manifest.file_size < (64 << 20) + (8 << 20) + (1 << 16)


def test_small_features_are_not_padded_to_8_mib(built: Path) -> None:
    assert built.stat().st_size < 40_000


def test_the_whole_file_is_reserved_on_the_disk(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(splits={"train": random_rows(1000, 256)})

    recipe.create().close()

    status = recipe.partial.stat()
    assert status.st_blocks * 512 >= status.st_size > 1000 * 256 * 4


@pytest.mark.parametrize("n_features", [1, 3, 600])
@pytest.mark.parametrize("dtype", ["<f4", "<f2", "|u1"])
@pytest.mark.parametrize("has_reasons", [True, False])
@pytest.mark.parametrize("n_splits", [1, 3])
def test_tiny_splits_of_any_width_are_read_back(
    make_recipe: MakeRecipe, n_features: int, dtype: str, has_reasons: bool, n_splits: int
) -> None:
    splits = {f"s{n}": random_rows(n, n_features, dtype=dtype) for n in range(1, n_splits + 1)}
    statistics = np.arange(3, dtype=np.float32)
    recipe = make_recipe(splits=splits, has_reasons=has_reasons, statistics=statistics)

    cache = open_cache(recipe.build())

    assert manifest_of(recipe.path).ledger.offset % 64 == 0
    for name, rows in splits.items():
        assert cache[name].features.tobytes() == rows.features.tobytes()
        assert cache[name].ids == rows.ids


def test_a_thousand_class_names_are_read_back(make_recipe: MakeRecipe) -> None:
    names = tuple(f"Art {i}: Kleiner Fuchs (Aglais urticae) ü" for i in range(1000))
    recipe = make_recipe(class_names=names)

    cache = open_cache(recipe.build())

    assert cache.class_names == names
    assert verify_cache(recipe.path).is_sound


def test_skeleton_ledger_statistics_and_blocks_cover_each_byte_once(
    make_recipe: MakeRecipe,
) -> None:
    recipe = make_recipe(statistics=np.arange(3, dtype=np.float32))

    manifest = manifest_of(recipe.build())

    assert manifest.statistics is not None
    places = [*manifest.skeleton_extents()]
    places += [(manifest.ledger.offset, manifest.ledger.nbytes)]
    places += [(manifest.statistics.offset, manifest.statistics.extent.nbytes)]
    places += [e for block in manifest.blocks() for e in manifest.block_extents(block)]
    end = 0
    for offset, nbytes in sorted(places):
        assert offset == end
        end = offset + nbytes
    assert end == manifest.file_size == recipe.path.stat().st_size


def test_bytes_behind_the_last_dataset_belong_to_the_skeleton(built: Path) -> None:
    manifest = manifest_of(built)
    longer = replace(manifest, file_size=manifest.file_size + 100)

    extents = list(longer.skeleton_extents())

    assert extents == [*manifest.skeleton_extents(), (manifest.file_size, 100)]


def test_blocks_end_with_their_split(recipe: Recipe) -> None:
    manifest = manifest_of(recipe.build())

    blocks = [(b.slot, b.split, b.start, b.stop) for b in manifest.blocks()]

    assert blocks == [
        (1, "train", 0, 4),
        (2, "train", 4, 8),
        (3, "train", 8, 10),
        (4, "test", 0, 3),
    ]


@pytest.mark.parametrize(
    ("row_nbytes", "batch_size", "expected"),
    [
        (100_352, 64, 128),  # VGG16: 12.8 MB, since 128 rows are the least
        (32_768, 64, 256),  # 8 MiB
        (5_120, 64, 512),
        (5_120, 200, 400),  # whole batches only
        (100_352, 1000, 1000),  # one batch at least
        (1, 1, 512),
    ],
)
def test_a_block_is_about_8_mib_in_whole_batches(
    row_nbytes: int, batch_size: int, expected: int
) -> None:
    assert rows_per_block(row_nbytes, batch_size) == expected


@pytest.mark.parametrize(
    ("row_nbytes", "batch_size", "gflop", "expected"),
    [
        (100_352, 16, 30.9, 32),  # VGG16: 40 rows are 10 s at 4 images a second
        (8_192, 16, 8.2, 144),  # ResNet50
        (5_120, 16, 0.6, 512),  # MobileNetV2: 10 s are more rows than a block has
        (100_352, 16, 0.6, 128),  # VGG16 at 32 px
        (8_192, 16, 1017.0, 16),  # one batch at least
        (8_192, 4, 1017.0, 16),  # and 16 rows, so that a ledger is long enough
    ],
)
def test_a_block_is_10_s_of_work_at_most(
    row_nbytes: int, batch_size: int, gflop: float, expected: int
) -> None:
    assert rows_per_block(row_nbytes, batch_size, gflop=gflop) == expected


def test_more_rows_than_a_ledger_has_slots_are_refused_before_a_byte_is_written(
    make_recipe: MakeRecipe,
) -> None:
    n_rows = 16 * ((1 << 20) - 1) + 1
    splits = {"train": SplitPlan(n_rows, (2,), "<f4", id_nbytes=8, has_reasons=False)}
    plan = replace(make_recipe().plan(), rows_per_block=16, splits=splits)

    with pytest.raises(UsageError, match=r"1048577 slots of a ledger, .* larger --batch-size"):
        plan.draft()

    assert replace(plan, rows_per_block=32).draft().n_slots == (1 << 19) + 1


def test_plain_h5py_reads_what_featcache_reads(built: Path, recipe: Recipe) -> None:
    train = recipe.splits["train"]

    with h5py.File(built, "r") as h5:
        features, labels = h5["train/features"][:], h5["train/labels"][:]
        valid, reason = h5["train/valid"][:], h5["train/reason"][3]
        ids = h5["train/ids"].asstr()[:]

    np.testing.assert_array_equal(features, train.features)
    np.testing.assert_array_equal(labels, train.labels)
    assert valid.tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert reason == b"truncated"
    assert ids.tolist() == train.ids


def test_plain_h5py_reads_images(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(splits={"train": random_rows(5, 4, 6, 3, dtype="|u1")})

    with h5py.File(recipe.build(), "r") as h5:
        images = h5["train/features"][:]

    np.testing.assert_array_equal(images, recipe.splits["train"].features)


# Reading a manifest that somebody else wrote.


def body_of(path: Path) -> bytes:
    raw = path.read_bytes()
    length, _ = parse_header(raw[MANIFEST_OFFSET : MANIFEST_OFFSET + HEADER_LENGTH], name=path.name)
    return raw[MANIFEST_OFFSET + HEADER_LENGTH :][:length]


def parse(body: bytes, path: Path) -> Manifest:
    sha256 = hashlib.sha256(body).hexdigest()
    return parse_manifest(body, sha256=sha256, file_size=path.stat().st_size, name=path.name)


def test_a_manifest_is_read_back_as_it_was_written(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(statistics=np.arange(3, dtype=np.float32))
    with recipe.create() as writer:
        written = writer.manifest

    manifest = parse(body_of(recipe.partial), recipe.partial)

    assert manifest == written
    assert manifest.to_bytes() == written.to_bytes()
    assert (manifest.identity, manifest.numerics) == (recipe.identity, recipe.numerics)


Edit = Callable[[dict[str, Any]], object]


def set_at(*keys: Any, to: Any) -> Edit:
    def edit(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return edit


TRAIN = ("splits", 0, "columns")
HUGE = 1 << 55


def overlap(manifest: dict[str, Any]) -> None:
    columns = manifest["splits"][0]["columns"]
    columns["labels"]["offset"] = columns["ids"]["offset"] + 8


def overlap_manifest(manifest: dict[str, Any]) -> None:
    manifest["splits"][0]["columns"]["labels"]["offset"] = MANIFEST_OFFSET + HEADER_LENGTH + 200


def more_rows(manifest: dict[str, Any]) -> None:
    split = manifest["splits"][0]
    split["n_rows"] = HUGE
    for column in split["columns"].values():
        column["shape"][0] = HUGE


def same_name(manifest: dict[str, Any]) -> None:
    manifest["splits"][1] = manifest["splits"][0]


def wide_statistics(n_dimensions: int) -> Edit:
    entries = [["running_mean", [1 << 54] * n_dimensions]]
    return set_at("statistics", to={"offset": 8192, "entries": entries})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (overlap, "two datasets overlap at byte"),
        (overlap_manifest, "two datasets overlap at byte"),
        (set_at(*TRAIN, "labels", "offset", to=0), "two datasets overlap at byte 0"),
        (set_at(*TRAIN, "ids", "offset", to=1 << 40), "behind the end of the file"),
        (set_at(*TRAIN, "features", "shape", to=[10, HUGE]), "overlap|behind the end"),
        (more_rows, r"a ledger .* for 9007199254740994 slots"),
        (set_at("rows_per_block", to=1), r"a ledger .* for 14 slots"),
        (set_at("ledger", "shape", to=[6, 64]), r"a ledger .* for 5 slots"),
        (set_at("ledger", "shape", to=[5, 32]), r"a ledger .* for 5 slots"),
        (set_at("ledger", "dtype", to="<f4"), r"a ledger .* for 5 slots"),
        (set_at("ledger", "offset", to=8200), r"a ledger .* for 5 slots"),
        (set_at(*TRAIN, "features", "dtype", to="<f8"), "dtype '<f8'"),
        (set_at(*TRAIN, "features", "dtype", to="|O"), r"dtype '\|O'"),
        (set_at(*TRAIN, "features", "dtype", to="<i8"), "features of split 'train' have dtype <i8"),
        (set_at(*TRAIN, "features", "dtype", to="<f4\n"), r"dtype '<f4\\n'"),
        (set_at(*TRAIN, "features", "dtype", to=4), "expected string"),
        (set_at(*TRAIN, "labels", "dtype", to="<f4"), "split 'train' has dtypes"),
        (set_at(*TRAIN, "valid", "dtype", to="<i8"), "split 'train' has dtypes"),
        (set_at(*TRAIN, "ids", "dtype", to="|u1"), "split 'train' has dtypes"),
        (set_at(*TRAIN, "reason", "dtype", to="|u1"), "split 'train' has dtypes"),
        (set_at(*TRAIN, "ids", "dtype", to="|S0"), r"dtype '\|S0'"),
        (set_at(*TRAIN, "labels", "offset", to=-8), "-8 where a count was expected"),
        (set_at(*TRAIN, "labels", "offset", to=True), "True where a count was expected"),
        (set_at(*TRAIN, "labels", "offset", to="9000"), "'9000' where a count was expected"),
        (set_at(*TRAIN, "labels", "offset", to=9e3), "9000.0 where a count was expected"),
        (set_at(*TRAIN, "labels", "offset", to=1 << 56), "where a count was expected"),
        (
            set_at(*TRAIN, "labels", "shape", to=[9]),
            r"labels of .* are \(9,\) for 10 rows",
        ),
        (set_at(*TRAIN, "labels", "shape", to=[]), r"labels of .* are \(\) for 10 rows"),
        (
            set_at(*TRAIN, "labels", "shape", to=[10, 1]),
            r"labels of .* have shape \(10, 1\)",
        ),
        (set_at(*TRAIN, "features", "shape", to=[10, 0]), "0 where a count was expected"),
        (set_at(*TRAIN, "features", "shape", to=[10, 1, 1, 1, 1]), "shape of 5 dimensions"),
        (set_at(*TRAIN, "extra", to={}), "'dtype'"),
        (lambda m: m["splits"][0]["columns"].pop("valid"), "split 'train' has columns"),
        (set_at("splits", 0, "n_rows", to=0), "0 where a count was expected"),
        (set_at("splits", to=[]), "no splits"),
        (set_at("splits", to=3), "not iterable"),
        (set_at("splits", 0, "name", to=7), "7 where text was expected"),
        (same_name, "a ledger|not in canonical form"),
        (set_at("rows_per_block", to=0), "0 where a count was expected"),
        (set_at("class_names", to=["ant", 2]), "2 where text was expected"),
        (set_at("identity", "backbone", to="vgg16"), "fingerprint and identity disagree"),
        (set_at("identity", to=[["backbone", "toy"], ["seed", 0]]), "where a mapping was expected"),
        (set_at("unknown", to=1), "not in canonical form"),
        (set_at("statistics", to={"offset": 8192, "entries": []}), "statistics without entries"),
        (wide_statistics(2), r"a ledger .* for 6 slots"),
        (wide_statistics(100_000), "a shape of 100000 dimensions"),
        (lambda m: m.pop("ledger"), "'ledger'"),
    ],
)
def test_a_manifest_that_featcache_would_not_write_is_refused(
    built: Path, edit: Edit, message: str
) -> None:
    manifest = json.loads(body_of(built))
    edit(manifest)
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()

    with pytest.raises(CorruptError, match=message) as caught:
        parse(body, built)

    assert "toy-00000000.h5: the manifest is not one that featcache" in str(caught.value)


SQUARE = {"resize": [8, 8]}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["identity"].pop("backbone"), "it lacks 'backbone'"),
        (lambda m: m["provenance"].pop("dataset"), "it lacks 'dataset'"),
        (set_at("identity", "backbone", to=5), "5 where text was expected"),
        (set_at("identity", "backbone", to="../../out"), "which is no name of a backbone"),
        (set_at("identity", "backbone", to="x" * 101), "which is no name of a backbone"),
        (set_at("provenance", "dataset", to="x" * 8193), "a name of 8193 characters"),
        (set_at("provenance", "weights", to=[]), r"\[\] where text was expected"),
        (set_at("provenance", "limit", to="9"), "'9' where a count was expected"),
        (set_at("identity", "bn", to={}), "it lacks 'mode'"),
        (set_at("identity", "bn", to=7), "7 where text was expected"),
        (set_at("identity", "bn", to={"a": {"a": {"a": {}}}}), "deeper than any cache has"),
        (set_at("numerics", "any", to=[[[[]]]]), "deeper than any cache has"),
        (set_at("numerics", "compiler", to=5), "5 where text was expected"),
        (set_at("numerics", "batch_size", to=-1), "-1 where a count was expected"),
        (set_at("numerics", "batch_size", to=3), "blocks of 4 rows in batches of 3"),
        (set_at("rows_per_block", to=(1 << 20) + 1), "longer than any cache has"),
        (set_at("identity", "preprocess", to=5), "5 where a preprocessing was expected"),
        (set_at("identity", "preprocess", to={}), "where a preprocessing was expected"),
        (set_at("identity", "preprocess", to={**SQUARE, "x": 1}), "unexpected keyword"),
        (set_at("identity", "preprocess", to={"resize": [8, 8, 8]}), "a preprocessing was"),
        (set_at("identity", "preprocess", to={"resize": [8.5, 8]}), "a preprocessing was"),
        (set_at("identity", "preprocess", to={"resize": [1 << 30, 8]}), "a preprocessing was"),
        (set_at("identity", "preprocess", to={"resize": 8}), "needs a crop"),
        (set_at("identity", "preprocess", to={"resize": 8, "crop": 9}), "does not fit"),
        (set_at("identity", "preprocess", to={**SQUARE, "mean": [1]}), "a preprocessing was"),
        (set_at("identity", "preprocess", to={**SQUARE, "std": [0, 0, 0]}), "must be above 0"),
        (set_at("identity", "preprocess", to={**SQUARE, "std": [10**400] * 3}), "too large"),
        (set_at("identity", "preprocess", to={**SQUARE, "interpolation": "x"}), "not supported"),
    ],
)
def test_what_no_command_could_use_is_refused_at_the_door(
    built: Path, edit: Edit, message: str
) -> None:
    built.write_bytes(resigned(built.read_bytes(), edit))

    with pytest.raises(CorruptError, match=message) as caught:
        open_cache(built)

    assert "toy-00000000.h5: the manifest is not one that featcache" in str(caught.value)


def test_a_refusal_repeats_no_value_of_any_length(built: Path) -> None:
    manifest = json.loads(body_of(built))
    manifest["class_names"] = [["x" * 1_000_000]]
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()

    with pytest.raises(CorruptError, match=r"xxx\.\.\. \(10000\d\d characters\)") as caught:
        parse(body, built)

    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seed":0', b'"seed":0,"seed":0'),
        (b'"dataset":"toys"', b'"dataset":NaN'),
        (b'"dataset":"toys"', b'"dataset":-Infinity'),
        (b'"dataset":"toys"', b'"dataset":1e999'),
        (b'"dataset":"toys"', b'"dataset": "toys"'),
        (b'"dataset":"toys"', b'"dataset":"\xff"'),
        (b'"dataset":"toys"', b'"dataset":' + b"[" * 100_000 + b"]" * 100_000),
        (b'"dataset":"toys"', b'"dataset":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        (b'"dataset":"toys"', b'"dataset":' + b"9" * 10_000),
        (b'"dataset":"toys"', b'"dataset":"toys"' + b"]"),
    ],
)
def test_a_manifest_in_any_but_the_canonical_form_is_refused(
    built: Path, old: bytes, new: bytes
) -> None:
    body = body_of(built).replace(old, new)

    with pytest.raises(CorruptError, match="the manifest is not one that featcache writes"):
        parse(body, built)


@pytest.mark.parametrize("body", [b"", b"[]", b"3", b"null", b'"text"', b"{}"])
def test_a_manifest_that_is_no_manifest_is_refused(built: Path, body: bytes) -> None:
    with pytest.raises(CorruptError, match="the manifest is not one that featcache writes"):
        parse(body, built)


def test_a_manifest_with_another_digest_is_refused(built: Path) -> None:
    body = body_of(built)

    with pytest.raises(CorruptError, match=r"the manifest is damaged \(its SHA-256 differs\)"):
        parse_manifest(body, sha256="0" * 64, file_size=built.stat().st_size, name="a.h5")


def test_a_file_cut_or_extended_is_refused_with_both_sizes(built: Path) -> None:
    n_bytes = built.stat().st_size
    os.truncate(built, n_bytes + 1)

    with pytest.raises(CorruptError, match=f"has {n_bytes + 1} bytes, but its manifest says"):
        open_cache(built)


def test_a_file_of_another_format_version_is_refused_by_name(built: Path) -> None:
    raw = built.read_bytes().replace(b"featcache manifest v001", b"featcache manifest v002")
    built.write_bytes(raw)

    with pytest.raises(
        MismatchError, match="has format version 2, but this featcache reads version 1"
    ) as caught:
        open_cache(built)

    assert caught.value.exit_code == 12


def test_a_manifest_longer_than_any_is_not_read(built: Path) -> None:
    header = b"featcache manifest v001 length=9999999999 sha256=" + b"0" * 64 + b"\n"

    with pytest.raises(CorruptError, match="a manifest of 9999999999 bytes is more than any"):
        parse_header(header, name="a.h5")


def test_a_file_whose_manifest_promises_huge_rows_is_refused_at_once(
    recipe: Recipe, built: Path
) -> None:
    manifest = json.loads(body_of(built))
    more_rows(manifest)
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(body).hexdigest()
    header = f"featcache manifest v001 length={len(body):010d} sha256={sha256}\n".encode()
    with built.open("r+b") as file:
        file.seek(MANIFEST_OFFSET)
        file.write(header + body)
    started = time.process_time()

    with pytest.raises(CorruptError, match="a ledger"):
        open_cache(built)

    assert time.process_time() - started < 1


def test_a_created_file_is_read_by_its_own_writer_before_the_first_row(recipe: Recipe) -> None:
    recipe.create().close()

    with CacheWriter.resume(recipe.path, recipe.rows()) as writer:
        assert len(writer.pending()) == 4
        assert writer.acknowledged() == []
