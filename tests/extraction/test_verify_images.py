from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.errors import UsageError
from tests.conftest import save_image
from tests.store.conftest import Recipe, random_rows
from tests.store.version_1 import as_version_1

Make = Callable[[], Path]


def changes(path: Path) -> list[tuple[str, int | None, str, str]]:
    report = featcache.verify_images(path)
    return [(c.split, c.row, c.id, c.what) for c in report.changed]


@pytest.fixture
def make(image_folder: Path, tmp_path: Path) -> Make:
    """Extract the images as they are now."""

    def extract() -> Path:
        dataset, cache_dir = f"folder:{image_folder}", tmp_path / "cache"
        options = {"backbone": "pixels", "image_size": 8, "n_workers": 0, "cache_dir": cache_dir}
        return featcache.extract(dataset, **options).path

    return extract


@pytest.fixture
def cache(make: Make) -> Path:
    return make()


def test_images_that_did_not_change_are_the_same(cache: Path, image_folder: Path) -> None:
    seen: list[tuple[int, int]] = []

    report = featcache.verify_images(cache, on_progress=lambda *done: seen.append(done))

    assert (report.are_same, report.changed, report.difference) == (True, (), "")
    assert report.dataset == f"folder:{image_folder}"
    assert report.n_images == sum(len(s) for s in featcache.open_cache(cache).splits.values())
    assert seen[-1] == (report.n_images, report.n_images)


def test_each_image_that_changed_is_named(cache: Path, image_folder: Path) -> None:
    ids = featcache.open_cache(cache)["train"].ids
    (image_folder / ids[1]).write_bytes((image_folder / ids[0]).read_bytes())
    (image_folder / ids[2]).unlink()
    new = Path(ids[0]).with_name("zz.png")
    save_image(image_folder / new, 99)

    assert changes(cache) == [
        ("train", 1, ids[1], "it holds other bytes now"),
        ("train", 2, ids[2], "it is gone"),
        ("train", None, str(new), "it is new"),
    ]


def test_an_image_and_the_label_of_another_are_both_named(tmp_path: Path) -> None:
    for i in range(4):
        save_image(tmp_path / f"{i}.png", i)
    table = tmp_path / "pets.csv"
    rows = ["path,label", "0.png,cat", "1.png,dog", "2.png,cat", "3.png,dog"]
    table.write_text("\n".join(rows))
    options = {"backbone": "pixels", "image_size": 8, "n_workers": 0}
    path = featcache.extract(f"list:{table}", cache_dir=tmp_path / "cache", **options).path

    save_image(tmp_path / "0.png", 9)
    save_image(tmp_path / "3.png", 9)
    table.write_text("\n".join([*rows[:3], "2.png,dog", "3.png,cat"]))

    assert changes(path) == [
        ("train", 0, "0.png", "it holds other bytes now"),
        ("train", 2, "2.png", "it has another label now"),
        ("train", 3, "3.png", "it holds other bytes now, and has another label"),
    ]
    table.write_text("\n".join([*rows[:4], "3.png,emu"]))
    report = featcache.verify_images(path)
    assert [image.row for image in report.changed] == [0, 3]
    assert report.difference.startswith("class 2 is 'emu' there, and missing in the cache")


def test_another_size_of_the_same_bytes_is_told_though_not_of_which_image(tmp_path: Path) -> None:
    flat, tall = np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8)
    before = featcache.make_dataset([(flat, 0), (flat, 0)], name="flat")
    path = featcache.extract(
        before, backbone="pixels", image_size=8, n_workers=0, cache_dir=tmp_path
    ).path

    now = featcache.make_dataset([(flat, 0), (tall, 0)], name="flat")
    report = featcache.verify_images(path, dataset=now)

    assert (report.changed, report.are_same) == ((), False)
    assert report.difference.startswith("some image has another size now, and the same bytes")


def test_an_image_that_became_readable_or_unreadable_is_named(
    make: Make, image_folder: Path
) -> None:
    first, second = sorted((image_folder / "train").rglob("*.png"))[:2]
    content = first.read_bytes()
    first.unlink()
    first.symlink_to("nowhere")  # a row, however broken
    path = make()
    first.unlink()
    first.write_bytes(content)
    second.unlink()
    second.symlink_to("nowhere")

    assert [(image_id, what) for _, _, image_id, what in changes(path)] == [
        (str(first.relative_to(image_folder)), "it could not be read then, and can be now"),
        (str(second.relative_to(image_folder)), "it can no longer be read"),
    ]


def test_a_changed_array_is_named(tmp_path: Path) -> None:
    path = featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=8, cache_dir=tmp_path
    ).path
    digests = featcache.open_cache(path)["train"].image_sha256
    pixels = featcache.load_dataset("digits", data_dir=tmp_path).limited(8).splits["train"]

    assert digests is not None
    assert digests.tolist() == pixels.image_sha256().tolist()
    assert featcache.verify_images(path).are_same


def test_exact_duplicates_are_equal_digests(make: Make, image_folder: Path) -> None:
    first, *_, last = sorted((image_folder / "train").rglob("*.png"))
    last.write_bytes(first.read_bytes())
    rows = featcache.open_cache(make())["train"]
    assert rows.image_sha256 is not None

    _, of_row, counts = np.unique(
        rows.image_sha256, axis=0, return_inverse=True, return_counts=True
    )

    duplicated = [rows.ids[i] for i in np.flatnonzero(counts[of_row.ravel()] > 1)]
    assert duplicated == [str(p.relative_to(image_folder)) for p in (first, last)]


def test_a_cache_of_version_1_says_that_something_changed_and_not_what(
    cache: Path, image_folder: Path
) -> None:
    old = as_version_1(cache)
    assert featcache.verify_images(old).are_same
    victim = image_folder / featcache.open_cache(old)["train"].ids[1]
    victim.write_bytes(victim.read_bytes() + b"\0")

    report = featcache.verify_images(old)

    assert (report.are_same, report.changed) == (False, ())
    assert report.difference.startswith(
        "some image changed. A cache of format version 1 cannot say"
    )


def test_an_imported_cache_has_no_images(tmp_path: Path) -> None:
    recipe = Recipe(
        tmp_path / "a.h5", {"train": random_rows(3, 2)}, identity={"backbone": "imported"}
    )

    with pytest.raises(UsageError, match="was imported, so it has no images"):
        featcache.verify_images(recipe.build())
