"""What version 2 of the format adds to version 1; tests/store/golden has a file of each."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featcache.errors import CorruptError, MismatchError
from featcache.store import (
    CacheWriter,
    Damage,
    describe_cache,
    mend_structure,
    open_cache,
    read_reference,
    read_state,
    verify_cache,
)
from tests.faults.hostile_files import resigned
from tests.store.conftest import MakeRecipe, Recipe, Rows, random_rows

V1 = Path(__file__).parent / "golden" / "v1.h5"
REFERENCE = np.arange(10, dtype=np.float32).reshape(2, 5)


def unlabelled(n: int) -> Rows:
    return replace(random_rows(n, 5, reasons={2: "cut"}), labels=None)


def hashed(n: int) -> Rows:
    digests = np.arange(32 * n, dtype=np.int64).reshape(n, 32).astype(np.uint8)
    return replace(random_rows(n, 5), image_sha256=digests)


@pytest.fixture
def full(make_recipe: MakeRecipe) -> Recipe:
    """All that version 2 adds, but labels that are missing."""
    splits = {"train": hashed(10), "test": hashed(3)}
    statistics = np.arange(3, dtype=np.float32)
    return make_recipe(splits=splits, statistics=statistics, reference=REFERENCE)


def test_rows_without_labels_are_read_back(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(splits={"all": unlabelled(10)}, class_names=())

    rows = open_cache(recipe.build())["all"]

    assert rows.labels is None
    assert rows.features.tolist() == recipe.splits["all"].features.tolist()
    assert rows.failures == {rows.ids[2]: "cut"}
    assert verify_cache(recipe.path).is_sound
    [described] = describe_cache(recipe.path).splits
    assert (described.n_rows, described.rows_per_class) == (10, {})
    with h5py.File(recipe.path) as h5:
        assert sorted(h5["all"]) == ["features", "ids", "reason", "valid"]


def test_digests_of_images_are_read_back_by_featcache_and_by_h5py(full: Recipe) -> None:
    wanted = full.splits["train"].image_sha256
    assert wanted is not None

    rows = open_cache(full.build())["train"]

    assert rows.image_sha256 is not None
    assert rows.image_sha256.tolist() == wanted.tolist()
    with h5py.File(full.path) as h5:
        assert h5["train/image_sha256"][:].tolist() == wanted.tolist()
        assert h5["trunk/reference"][:].tolist() == REFERENCE.tolist()


def test_reference_rows_have_a_slot_of_their_own_behind_the_statistics(full: Recipe) -> None:
    with full.create() as writer:
        manifest, pending = writer.manifest, writer.pending()

    assert {name: part.slot for name, part in manifest.parts.items()} == {
        "trunk": 1,
        "reference": 2,
    }
    assert [block.slot for block in pending] == [3, 4, 5, 6]
    stored = read_reference(full.partial)
    assert stored is not None
    assert stored.tolist() == REFERENCE.tolist()


def test_a_cache_without_its_reference_rows_is_not_complete(full: Recipe) -> None:
    full.reference, wanted = None, full.reference
    plan = replace(full.plan(), reference=REFERENCE.shape)

    with CacheWriter.create(full.path, plan, full.rows()) as writer:
        assert writer.read_reference() is None
        assert full.statistics is not None
        writer.write_statistics(full.statistics)
        full.write(writer, writer.pending())
        with pytest.raises(CorruptError, match="1 blocks are not acknowledged"):
            writer.finish()

    full.reference = wanted
    full.resume_and_finish()
    assert verify_cache(full.path).is_sound


def test_damaged_reference_rows_are_named_and_not_read(full: Recipe) -> None:
    path = full.build()
    place = read_state(path).manifest.parts["reference"].extent.offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff")

    report = verify_cache(path)

    wanted = "the backbone's reference rows are not as written"
    assert report.damages == (Damage("reference", 0, 0, 0, wanted),)
    with pytest.raises(CorruptError, match=r"reference rows are damaged .* cache repair"):
        read_reference(path)
    with CacheWriter.resume(path, full.rows()) as writer:
        assert writer.read_reference() is None
        assert writer.read_statistics() is not None


def test_one_bit_of_each_slot_and_of_the_version_is_put_right(full: Recipe) -> None:
    path = full.build()
    sound = path.read_bytes()
    ledger = read_state(path).manifest.ledger
    version = sound.index(b"manifest v002") + len("manifest v00")
    for byte, bit in [(version, bit) for bit in range(8)] + [
        (ledger.offset + i, i % 8) for i in range(0, 4 * 64, 9)
    ]:
        content = bytearray(sound)
        content[byte] ^= 1 << bit
        path.write_bytes(content)

        assert len(mend_structure(path)) == 1, (byte, bit)
        assert path.read_bytes() == sound, (byte, bit)


def test_a_partial_file_of_version_1_is_finished_as_version_1(make_recipe: MakeRecipe) -> None:
    whole = make_recipe("toys/whole.h5", version=1).build()
    stopped = make_recipe("toys/stopped.h5", version=1)
    with stopped.create() as writer:
        stopped.write(writer, writer.pending()[:2])

    with CacheWriter.resume(stopped.path, make_recipe().rows()) as writer:
        stopped.write(writer, writer.pending())
        writer.finish()

    assert read_state(whole).manifest.version == 1
    assert stopped.path.read_bytes() == whole.read_bytes()


def test_rows_and_slots_of_both_versions_are_the_same_bytes_where_nothing_new_is_used(
    make_recipe: MakeRecipe,
) -> None:
    def rows_and_slots(version: int) -> list[bytes]:
        path = make_recipe(f"toys/{version}.h5", version=version).build()
        content, manifest = path.read_bytes(), read_state(path).manifest
        ledger = manifest.ledger
        places = [e for block in manifest.blocks() for e in manifest.block_extents(block)]
        places.append((ledger.offset + 64, ledger.nbytes - 64))  # slot 0 has the manifest's digest
        return [content[offset : offset + nbytes] for offset, nbytes in places]

    assert rows_and_slots(1) == rows_and_slots(2)


Edit = Callable[[dict[str, Any]], object]


def written(path: Path, edit: Edit) -> Path:
    """Change what a cache says, and sign it again."""
    path.write_bytes(resigned(path.read_bytes(), edit))
    return path


def with_targets(manifest: dict[str, Any]) -> None:
    columns = manifest["splits"][0]["columns"]
    columns["targets"] = {**columns["features"], "dtype": "|u1"}


def with_views(manifest: dict[str, Any]) -> None:
    columns = manifest["splits"][0]["columns"]
    columns["features"]["shape"] = [10, 5, 1]


@pytest.mark.parametrize(
    ("edit", "what"),
    [(with_targets, "several targets for each image"), (with_views, "several views of each image")],
)
def test_what_is_reserved_is_refused_as_a_later_featcaches(
    built: Path, edit: Edit, what: str
) -> None:
    path = written(built, edit)

    with pytest.raises(MismatchError, match=rf"made by a later featcache: split 'train' .*{what}"):
        open_cache(path)


def drop(column: str, *splits: int) -> Edit:
    def edit(manifest: dict[str, Any]) -> None:
        for i in splits:
            del manifest["splits"][i]["columns"][column]

    return edit


def reference_of(**described: object) -> Edit:
    return lambda manifest: manifest["reference"].update(described)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (drop("labels", 0), "labels in some splits only"),
        (drop("labels", 0, 1), "names of classes without any"),
        (drop("ids", 0), "has columns"),
        (reference_of(shape=[2, 4]), "for rows of 5 features"),
        (reference_of(dtype="<f2"), "for rows of 5 features"),
        (reference_of(offset=4096), "two datasets overlap"),
        (lambda m: m.pop("reference"), "it lacks 'reference'"),
        (lambda m: m["splits"][0]["columns"]["image_sha256"].update(shape=[10, 31]), "have shape"),
        (lambda m: m["splits"][0]["columns"]["image_sha256"].update(dtype="<f4"), "has dtypes"),
    ],
)
def test_a_wrong_manifest_of_version_2_is_refused(full: Recipe, edit: Edit, why: str) -> None:
    path = written(full.build(), edit)

    with pytest.raises(CorruptError, match=why):
        open_cache(path)


@pytest.mark.parametrize("edit", [drop("labels", 0, 1), lambda m: m.update(reference=None)])
def test_version_1_has_none_of_the_new(tmp_path: Path, edit: Edit) -> None:
    path = written(Path(shutil.copy(V1, tmp_path)), edit)

    with pytest.raises(CorruptError, match="the manifest is not one that featcache writes"):
        open_cache(path)


def test_a_body_of_one_version_is_none_of_the_other(full: Recipe, tmp_path: Path) -> None:
    for path, own, other in [
        (full.build(), b"manifest v002", b"manifest v001"),
        (Path(shutil.copy(V1, tmp_path)), b"manifest v001", b"manifest v002"),
    ]:
        path.write_bytes(path.read_bytes().replace(own, other))

        with pytest.raises(CorruptError, match="the manifest is not one that featcache writes"):
            open_cache(path)


def test_a_partial_file_of_a_later_featcache_is_not_touched(full: Recipe) -> None:
    full.create().close()
    content = full.partial.read_bytes().replace(b"manifest v002", b"manifest v004")
    full.partial.write_bytes(content)

    with pytest.raises(MismatchError, match="made by a later featcache: its format version is 4"):
        CacheWriter.resume(full.path, full.rows())
    assert full.partial.read_bytes() == content
