import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from featcache.store import SplitPlan, open_cache, read_state, rows_per_block, verify_cache
from featcache.store.manifest import HEADER_LENGTH, MANIFEST_OFFSET, Manifest
from featcache.store.manifest_parser import parse_header
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

    _, length, sha256 = parse_header(header, name=built.name)

    body = rest[:length]
    assert MANIFEST_OFFSET == 4096
    assert header.startswith(b"featcache manifest v002 length=")
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


@pytest.mark.parametrize(
    ("n_rows", "rows_per_block"),
    [
        (16 * ((1 << 20) - 1), 16),  # 16.8 million rows: the last for which a ledger has a slot
        (16 * ((1 << 20) - 1) + 1, 32),
        (1 << 30, 2048),
    ],
)
def test_blocks_grow_where_a_ledger_would_not_hold_them_all(
    make_recipe: MakeRecipe, n_rows: int, rows_per_block: int
) -> None:
    splits = {"train": SplitPlan(n_rows, (2,), "<f4", id_nbytes=8, has_reasons=False)}
    plan = replace(make_recipe().plan(), rows_per_block=16, splits=splits)

    draft = plan.draft()

    assert draft.rows_per_block == rows_per_block
    assert draft.n_slots == 1 + -(-n_rows // rows_per_block) <= 1 << 20


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
