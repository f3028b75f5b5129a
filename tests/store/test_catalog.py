import os
from pathlib import Path

import pytest

from featcache.core.identity import differing_fields
from featcache.errors import CacheMissingError, CorruptError, LockedError, StorageError, UsageError
from featcache.store import (
    Identity,
    cache_path,
    catalog,
    find_cache,
    list_caches,
    locked,
    near_misses,
    read_state,
    remove_cache,
    summarise,
)
from tests.store.conftest import MakeRecipe, Recipe


def test_a_cache_is_named_by_dataset_backbone_and_fingerprint() -> None:
    path = cache_path(Path("cache/cifar10"), "vgg16", "0123456789abcdef" * 4)

    assert path == Path("cache/cifar10/vgg16-01234567.h5")


# Listing.


def test_a_complete_cache_is_listed_with_all_its_numbers(built: Path, tmp_path: Path) -> None:
    (summary,) = list_caches(tmp_path)

    assert summary.path == built
    assert (summary.state, summary.problem) == ("complete", "")
    assert (summary.dataset, summary.backbone, summary.n_features) == ("toys", "toy", 5)
    assert (summary.n_rows, summary.n_rows_done) == (13, 13)
    assert summary.nbytes == built.stat().st_size
    assert summary.fingerprint == read_state(built).manifest.identity.fingerprint


def test_a_partial_file_is_listed_as_incomplete(recipe: Recipe, tmp_path: Path) -> None:
    with recipe.create() as writer:
        recipe.write(writer, writer.pending()[:1])

    (summary,) = list_caches(tmp_path)

    assert summary.path == recipe.partial
    assert (summary.state, summary.n_rows, summary.n_rows_done) == ("incomplete", 13, 4)


def test_a_file_that_is_no_cache_is_listed_as_damaged_with_its_problem(tmp_path: Path) -> None:
    path = tmp_path / "toys" / "other.h5"
    path.parent.mkdir()
    path.write_bytes(b"something else")

    (summary,) = list_caches(tmp_path)

    assert (summary.path, summary.state, summary.nbytes) == (path, "damaged", 14)
    assert "is not an HDF5 file" in summary.problem


def test_a_link_to_nowhere_is_listed_as_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "toys" / "link.h5"
    path.parent.mkdir()
    path.symlink_to(tmp_path / "nowhere")

    summary = summarise(path)

    assert summary.state == "unreadable"
    assert "There is no cache" in summary.problem


@pytest.mark.parametrize("content", [bytes(64), b"\xff" * 64])
def test_a_cache_with_an_empty_or_damaged_slot_is_listed_as_damaged(
    built: Path, tmp_path: Path, content: bytes
) -> None:
    with built.open("r+b") as file:
        file.seek(read_state(built).manifest.ledger.offset + 64)
        file.write(content)

    (summary,) = list_caches(tmp_path)

    assert (summary.state, summary.n_rows_done) == ("damaged", 9)
    assert summary.problem == f"{built}: slots of its ledger are damaged"


def test_a_listing_is_sorted_by_path_and_ignores_other_files(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    for name in ("b/two.h5", "a/one.h5", "b/one.h5"):
        make_recipe(name).build()
    (tmp_path / "a" / "one.h5.lock").touch()
    (tmp_path / "a" / "notes.txt").touch()

    names = [str(c.path.relative_to(tmp_path)) for c in list_caches(tmp_path)]

    assert names == ["a/one.h5", "b/one.h5", "b/two.h5"]


def test_a_folder_that_is_not_there_holds_no_caches(tmp_path: Path) -> None:
    assert list_caches(tmp_path / "nowhere") == []


# Finding.


def test_a_cache_is_found_by_its_path(built: Path, tmp_path: Path) -> None:
    assert find_cache(built, cache_dir=tmp_path / "elsewhere") == built


@pytest.mark.parametrize("part", ["toy-0000", "toys/toy", "00000000.h5", "toys/toy-00000000.h5"])
def test_a_cache_is_found_by_a_part_of_its_name(built: Path, tmp_path: Path, part: str) -> None:
    assert find_cache(part, cache_dir=tmp_path) == built


def test_a_partial_file_is_found_by_a_part_of_its_name(recipe: Recipe, tmp_path: Path) -> None:
    recipe.create().close()

    assert find_cache("toy-0000", cache_dir=tmp_path) == recipe.partial


def test_a_part_of_several_names_is_refused_with_all_of_them(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    paths = [make_recipe(f"toys/vgg16-{i}.h5").build() for i in range(2)]

    with pytest.raises(UsageError, match="'vgg16' fits several caches") as caught:
        find_cache("vgg16", cache_dir=tmp_path)

    assert all(str(path) in str(caught.value) for path in paths)


def test_a_whole_name_is_found_though_it_is_part_of_another(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    complete = make_recipe().build()
    make_recipe().create().close()

    found = find_cache("toys/toy-00000000.h5", cache_dir=tmp_path)

    assert found == complete


def test_a_misspelt_name_gets_the_nearest(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    make_recipe("cifar10/vgg16-1a2b3c4d.h5").build()

    with pytest.raises(CacheMissingError, match=r"Did you mean cifar10/vgg16-1a2b3c4d\.h5\?"):
        find_cache("cifar10/vgg61-1a2b3c4d", cache_dir=tmp_path)


def test_a_name_like_no_other_gets_the_command_that_lists(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match="There is no cache 'zzz'") as caught:
        find_cache("zzz", cache_dir=tmp_path)

    assert "Did you mean" not in str(caught.value)
    assert "featcache cache ls" in str(caught.value)


# Near misses.


def test_a_near_miss_names_the_fields_that_differ(make_recipe: MakeRecipe) -> None:
    wanted = {"backbone": "toy", "seed": 1, "preprocess": {"resize": [64, 64]}}
    found = wanted | {"preprocess": {"resize": [32, 32]}}
    other = make_recipe("toys/toy-1.h5", identity=found).build()
    make_recipe("toys/net-2.h5", identity=wanted | {"backbone": "net"}).build()

    misses = near_misses(other.with_name("toy-3.h5"), Identity.from_json(wanted))

    assert misses == [(other, ["preprocess.resize: found [32,32], wanted [64,64]"])]


def test_the_nearest_of_the_near_misses_comes_first(make_recipe: MakeRecipe) -> None:
    wanted = {"backbone": "toy", "weights_sha256": "w", "dataset_sha256": "d"}
    wanted |= {"preprocess": {"resize": [64, 64], "crop": None, "mean": [0.5] * 3}}
    others = {
        # Two fields, in one value each; one field, in three values; one field, in one value.
        "toys/toy-1.h5": {"weights_sha256": "x", "dataset_sha256": "e"},
        "toys/toy-2.h5": {"preprocess": {"resize": [32, 32], "crop": 16, "mean": [0.4] * 3}},
        "toys/toy-3.h5": {"dataset_sha256": "e"},
    }
    paths = [make_recipe(name, identity=wanted | o).build() for name, o in others.items()]

    misses = near_misses(paths[0].with_name("toy-4.h5"), Identity.from_json(wanted))

    assert [path for path, _ in misses] == paths[::-1]
    assert misses[0][1] == ['dataset_sha256: found "e", wanted "d"']


def test_of_a_stranger_s_identity_a_message_shows_no_more_than_it_can_hold() -> None:
    wanted = {"backbone": "toy"}
    found = wanted | {f"{i:02d}" + "k" * 300: "x" * 10_000 for i in range(50)}

    shown = differing_fields(found, wanted)

    assert len(shown) == 21
    assert shown[-1] == "and 30 more"
    assert max(map(len, shown)) < 500


def test_the_file_itself_is_no_near_miss(built: Path, recipe: Recipe) -> None:
    assert near_misses(built, Identity.from_json(recipe.identity)) == []


def test_a_damaged_neighbour_is_no_near_miss(built: Path, recipe: Recipe) -> None:
    built.with_name("toy-1.h5").write_bytes(b"something else")

    assert near_misses(built, Identity.from_json(recipe.identity)) == []


# Removing.


def test_removing_takes_the_file_its_partial_and_its_lock(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe()
    recipe.build()
    recipe.create().close()
    with locked(recipe.path):
        pass

    removed = remove_cache(recipe.path)

    assert removed == [recipe.path, recipe.partial]
    assert list(recipe.path.parent.iterdir()) == []


def test_a_file_that_may_be_anything_is_not_removed(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.h5"
    thesis.write_bytes(b"two years of work")

    with pytest.raises(CorruptError, match=r"may be anything\. Nothing was removed"):
        remove_cache(str(thesis))

    assert thesis.exists()


def test_removing_a_partial_file_by_its_own_name_removes_it(recipe: Recipe) -> None:
    recipe.create().close()

    removed = remove_cache(recipe.partial)

    assert removed == [recipe.partial]
    assert list(recipe.path.parent.iterdir()) == []


def test_removing_leaves_the_neighbours(make_recipe: MakeRecipe) -> None:
    kept = make_recipe("toys/kept.h5").build()
    gone = make_recipe("toys/gone.h5").build()

    remove_cache(gone)

    assert list(kept.parent.iterdir()) == [kept]


def test_removing_a_link_leaves_what_it_links_to(built: Path) -> None:
    link = built.with_name("link.h5")
    link.symlink_to(built)

    remove_cache(link)

    assert list(built.parent.iterdir()) == [built]


def test_a_cache_that_is_being_written_is_not_removed(recipe: Recipe) -> None:
    recipe.create().close()

    with locked(recipe.path), pytest.raises(LockedError) as caught:
        remove_cache(recipe.partial)

    assert caught.value.exit_code == 11
    assert recipe.partial.exists()


def test_a_partial_file_finished_just_before_is_removed_by_its_new_name(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.create().close()

    def finish_and_lock(path: Path, *, remove: bool) -> object:
        recipe.resume_and_finish()
        return locked(path, remove=remove)

    monkeypatch.setattr(catalog, "locked", finish_and_lock)

    removed = remove_cache(recipe.partial)

    assert removed == [recipe.path]


def test_a_file_that_may_not_be_removed_is_named(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(Path, "unlink", refuse)

    with pytest.raises(StorageError, match="Operation not permitted"):
        remove_cache(built)


def test_removing_nothing_is_an_error_and_leaves_no_lock(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match="Nothing was removed"):
        remove_cache(tmp_path / "nowhere.h5")

    assert list(tmp_path.iterdir()) == []
