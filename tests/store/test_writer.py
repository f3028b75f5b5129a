import os
from pathlib import Path

import numpy as np
import pytest

from featcache.errors import CorruptError
from featcache.store import (
    CacheWriter,
    FilePlan,
    Identity,
    NumericClass,
    Provenance,
    SplitPlan,
    SplitRows,
    open_cache,
    read_state,
)
from featcache.store.hdf5_file import largest_nbytes
from tests.store.conftest import MakeRecipe, Recipe, random_rows
from tests.store.damage import flip

# Acknowledging.


def test_rows_that_were_not_committed_are_pending_after_reopening(recipe: Recipe) -> None:
    with recipe.create() as first:
        recipe.write(first, first.pending()[:1])
        recipe.write(first, first.pending()[:1], commit=False)

    with CacheWriter.resume(recipe.path, recipe.rows()) as second:
        acknowledged = [(b.split, b.start) for b in second.acknowledged()]
        pending = [(b.split, b.start) for b in second.pending()]

    assert acknowledged == [("train", 0)]
    assert pending == [("train", 4), ("train", 8), ("test", 0)]


def test_rows_that_were_committed_are_kept_by_a_writer_that_is_not_closed(recipe: Recipe) -> None:
    first = recipe.create()
    recipe.write(first, first.pending())

    with CacheWriter.resume(recipe.path, recipe.rows()) as second:
        assert second.pending() == []
        assert second.recheck() == []

    first.close()


def test_blocks_may_be_written_in_any_order(recipe: Recipe, make_recipe: MakeRecipe) -> None:
    straight = make_recipe("toys/straight.h5").build()

    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[::-1])
        cache_writer.finish()

    assert recipe.path.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize("n_first", [0, 1, 2, 3, 4])
def test_a_resumed_file_has_the_bytes_of_an_uninterrupted_one(
    make_recipe: MakeRecipe, n_first: int
) -> None:
    statistics = np.arange(3, dtype=np.float32)
    straight = make_recipe("toys/straight.h5", statistics=statistics).build()
    recipe = make_recipe("toys/cut.h5", statistics=statistics)
    with recipe.create() as first:
        recipe.write(first, first.pending()[:n_first])
        recipe.write(first, first.pending()[:1], commit=False)

    recipe.resume_and_finish()

    assert recipe.path.read_bytes() == straight.read_bytes()


def test_finish_gives_the_file_its_name_and_leaves_nothing_else(recipe: Recipe) -> None:
    recipe.build()

    assert [p.name for p in recipe.path.parent.iterdir()] == ["toy-00000000.h5"]
    assert read_state(recipe.path).is_complete


def test_finish_refuses_while_blocks_are_missing(recipe: Recipe) -> None:
    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[:3])

        missing = r"1 blocks are not acknowledged \(test rows 0 to 2, ...\)\. It was not"
        with pytest.raises(CorruptError, match=missing):
            cache_writer.finish()

    assert not recipe.path.exists()


def test_finish_refuses_while_statistics_are_missing(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(statistics=np.arange(3, dtype=np.float32))

    with CacheWriter.create(recipe.path, recipe.plan(), recipe.rows()) as cache_writer:
        recipe.write(cache_writer, cache_writer.pending())

        missing = r"1 blocks are not acknowledged \(the backbone's running statistics, ...\)"
        with pytest.raises(CorruptError, match=missing):
            cache_writer.finish()


def test_what_another_writer_acknowledged_is_found_by_a_refresh(
    recipe: Recipe, make_recipe: MakeRecipe
) -> None:
    straight = make_recipe("toys/straight.h5").build()
    with recipe.create() as first, CacheWriter.resume(recipe.path, recipe.rows()) as second:
        recipe.write(first, first.pending()[::2])
        recipe.write(second, second.pending()[1::2])
        assert len(first.pending()) == 2

        first.refresh()

        assert first.pending() == []
        second.finish()  # refreshes by itself
    assert recipe.path.read_bytes() == straight.read_bytes()


def test_a_forgotten_block_is_pending_until_it_is_written_again(recipe: Recipe) -> None:
    with recipe.create() as cache_writer:
        blocks = cache_writer.pending()
        recipe.write(cache_writer, blocks)
        cache_writer.forget(blocks[1])

        cache_writer.refresh()

        assert cache_writer.pending() == [blocks[1]]
        recipe.write(cache_writer, cache_writer.pending())
        cache_writer.refresh()
        assert cache_writer.pending() == []


# What is stored.


def test_float16_rows_are_stored_bit_for_bit(make_recipe: MakeRecipe) -> None:
    rows = random_rows(9, 7, dtype="<f2")
    recipe = make_recipe(splits={"train": rows})

    cache = open_cache(recipe.build())

    assert cache["train"].features.dtype == np.float16
    assert cache["train"].features.tobytes() == rows.features.tobytes()


def test_images_are_stored_as_they_are(make_recipe: MakeRecipe) -> None:
    rows = random_rows(9, 4, 6, 3, dtype="|u1")
    recipe = make_recipe(splits={"train": rows})

    cache = open_cache(recipe.build())

    assert cache["train"].features.shape == (9, 4, 6, 3)
    assert cache.n_features == 72
    np.testing.assert_array_equal(cache["train"].features, rows.features)


def test_rows_that_are_not_contiguous_in_memory_are_stored_in_order(
    make_recipe: MakeRecipe,
) -> None:
    rows = random_rows(9, 7)
    rows.features = np.asfortranarray(rows.features)
    recipe = make_recipe(splits={"train": rows})

    cache = open_cache(recipe.build())

    np.testing.assert_array_equal(cache["train"].features, rows.features)


@pytest.mark.parametrize(
    "ids",
    [
        ["a", "b", "c"],
        ["Käfer/日本語.png", "🦋.png", "x"],
        [os.fsdecode(b"cat/\xff\xfe.png"), "b", "c"],
        ["x" * 4000, "", "c"],
        [" leading", "trailing ", "inner\nline"],
    ],
)
def test_ids_of_any_kind_are_read_back(make_recipe: MakeRecipe, ids: list[str]) -> None:
    rows = random_rows(3, 2)
    rows.ids = ids
    recipe = make_recipe(splits={"train": rows})

    cache = open_cache(recipe.build())

    assert cache["train"].ids == ids


def test_an_id_longer_than_its_place_is_refused_before_a_file_is_left(tmp_path: Path) -> None:
    split = SplitPlan(
        n_rows=2, feature_shape=(1,), feature_dtype="<f4", id_nbytes=3, has_reasons=False
    )
    plan = FilePlan(
        identity=Identity.from_json({"backbone": "toy"}),
        numerics=NumericClass.from_json({}),
        provenance=Provenance.from_json({"dataset": "toys"}),
        class_names=("a",),
        rows_per_block=1,
        splits={"train": split},
    )
    rows = {"train": SplitRows(np.zeros(2, np.int64), ["abc", "abcd"])}

    with pytest.raises(CorruptError, match="it is longer than its place"):
        CacheWriter.create(tmp_path / "a.h5", plan, rows)

    assert list(tmp_path.iterdir()) == []


def test_labels_of_another_length_than_their_split_are_refused(recipe: Recipe) -> None:
    rows = {n: SplitRows(r.labels[:-1], r.ids) for n, r in recipe.splits.items()}

    with pytest.raises(CorruptError, match="its labels, ids or digests of images are others"):
        CacheWriter.create(recipe.path, recipe.plan(), rows)


@pytest.mark.parametrize(
    ("reason", "stored"),
    [
        ("short", "short"),
        ("x" * 81, "x" * 80),
        ("x" * 79 + "é", "x" * 79),  # two bytes, of which one would fit
        ("x" * 78 + "é", "x" * 78 + "é"),
        ("🦋" * 30, "🦋" * 20),
        ("bad name \udcff", "bad name ?"),
    ],
)
def test_a_reason_is_clipped_to_80_bytes_of_whole_characters(
    make_recipe: MakeRecipe, reason: str, stored: str
) -> None:
    recipe = make_recipe(splits={"train": random_rows(6, 2, reasons={5: reason})})

    cache = open_cache(recipe.build())

    assert cache["train"].failures == {"class 2/image-5.png": stored}


def test_statistics_are_read_back_by_the_writer(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(statistics=np.array([1.5, -2, 3], np.float32))
    recipe.create().close()

    with CacheWriter.resume(recipe.path, recipe.rows()) as cache_writer:
        stored = cache_writer.read_statistics()

    assert stored is not None
    assert {name: values.tolist() for name, values in stored.items()} == {
        "bn.running_mean": [1.5],
        "bn.running_var": [[-2, 3]],
    }


def test_damaged_statistics_count_as_not_written(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(statistics=np.arange(3, dtype=np.float32))
    recipe.create().close()
    statistics = read_state(recipe.partial).manifest.statistics
    assert statistics is not None
    flip(recipe.partial, statistics.offset)

    with CacheWriter.resume(recipe.path, recipe.rows()) as cache_writer:
        assert cache_writer.read_statistics() is None


def test_stored_rows_are_read_by_the_writer(recipe: Recipe) -> None:
    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[:1])

        rows = cache_writer.read_rows("train", 1, 3)

    np.testing.assert_array_equal(rows, recipe.splits["train"].features[1:3])


def test_a_block_of_another_numeric_class_is_foreign(recipe: Recipe) -> None:
    with recipe.create() as cache_writer:
        recipe.write(cache_writer, cache_writer.pending()[:1])
        recipe.write(cache_writer, cache_writer.pending()[:1], commit=False)
        cache_writer.commit(NumericClass.from_json({"precision": "tf32"}))

        own, foreign = cache_writer.acknowledged()

        assert not cache_writer.is_foreign(own)
        assert cache_writer.is_foreign(foreign)
    assert read_state(recipe.partial).foreign_blocks == [foreign]


def test_the_largest_size_of_a_planned_file_bounds_it(make_recipe: MakeRecipe) -> None:
    for shape in ((5,), (25_088,), (3, 40, 40)):
        recipe = make_recipe(splits={"train": random_rows(10, *shape), "test": random_rows(3, 5)})
        size = recipe.build().stat().st_size

        assert size <= largest_nbytes(recipe.plan()) <= size + 200_000
        recipe.path.unlink()
