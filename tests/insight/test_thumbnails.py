"""Pictures of a cache's rows: of the very images that it was made from, or a plain reason."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featcache
from featcache.images.splits import UnreadableImageError
from featcache.insight.cache_images import CacheImages, images_of
from featcache.insight.thumbnails import Thumbnail, thumbnail, thumbnail_of
from featcache.store import Cache
from tests.conftest import save_image
from tests.store.version_1 import as_version_1

Extract = Callable[..., featcache.ExtractResult]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes: four images to train, one of them damaged, and two to test."""
    root = tmp_path / "pets"
    for i in range(4):
        save_image(root / "train" / ("cat" if i % 2 else "dog") / f"{i}.png", i, size=(120, 200))
    (root / "train" / "dog" / "2.png").write_bytes(b"damaged")
    for i in range(2):
        save_image(root / "test" / ("cat" if i % 2 else "dog") / f"{i}.png", 10 + i, size=(30, 20))
    return root


@pytest.fixture
def extract(tmp_path: Path) -> Extract:
    """`featcache.extract` of the images themselves, at 8 px."""
    return partial(
        featcache.extract,
        backbone="pixels",
        image_size=8,
        n_workers=0,
        cache_dir=tmp_path / "cache",
    )


@pytest.fixture
def cache(pets: Path, extract: Extract) -> Cache:
    return featcache.open_cache(extract(f"folder:{pets}").path)


def row_of(cache: Cache, split: str, image_id: str) -> int:
    return list(cache[split].ids).index(image_id)


def picture_of(found: Thumbnail) -> tuple[str, Image.Image]:
    """The kind and the pixels of a picture."""
    head, _, content = found.uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert (image.size, found.reason) == ((found.width, found.height), "")
    return head, image


def reason_of(images: CacheImages, split: str, row: int) -> str:
    found = thumbnail(images, split, row)
    assert found.uri == ""
    return found.reason


def test_a_large_image_is_reduced_and_a_small_one_stays_to_the_pixel(
    cache: Cache, pets: Path
) -> None:
    images = images_of(cache)

    large, reduced = picture_of(
        thumbnail(images, "train", row_of(cache, "train", "train/cat/1.png"))
    )
    small, kept = picture_of(thumbnail(images, "test", row_of(cache, "test", "test/dog/0.png")))

    assert (large, reduced.size) == ("data:image/jpeg;base64", (96, 58))
    assert (small, kept.size) == ("data:image/png;base64", (20, 30))
    np.testing.assert_array_equal(kept, Image.open(pets / "test" / "dog" / "0.png"))


def test_the_side_of_a_picture_can_be_chosen_and_none_is_thinner_than_a_pixel() -> None:
    long = Image.new("RGB", (5000, 3), (200, 10, 10))

    found = thumbnail_of(long, side=64)

    assert (found.width, found.height) == (64, 1)


def test_an_image_that_could_not_be_read_has_the_reason_of_the_cache(cache: Cache) -> None:
    row = row_of(cache, "train", "train/dog/2.png")

    assert reason_of(images_of(cache), "train", row) == "not an image"


def test_only_the_very_image_of_a_row_is_shown(cache: Cache, pets: Path) -> None:
    shutil.copy(pets / "train" / "dog" / "0.png", pets / "train" / "cat" / "1.png")
    (pets / "train" / "cat" / "3.png").unlink()
    images = images_of(cache)

    told = {
        image_id: thumbnail(images, "train", row).reason
        for row, image_id in enumerate(cache["train"].ids)
    }

    assert told == {
        "train/cat/1.png": "another image is in its place now",
        "train/cat/3.png": "its image is gone",
        "train/dog/0.png": "",
        "train/dog/2.png": "not an image",
    }


def test_images_are_found_by_their_ids_wherever_they_stand_now(cache: Cache, pets: Path) -> None:
    save_image(pets / "train" / "ant" / "0.png", 77)
    images = images_of(cache)

    with Image.open(pets / "train" / "dog" / "0.png") as expected:
        found = images.image("train", row_of(cache, "train", "train/dog/0.png"))
        np.testing.assert_array_equal(found, expected)


def test_a_dataset_that_moved_is_told_and_can_be_named(
    cache: Cache, pets: Path, tmp_path: Path
) -> None:
    moved = pets.rename(tmp_path / "elsewhere")

    gone = images_of(cache)

    assert gone.reason == f"The images of folder:{pets} are no longer there."
    assert reason_of(gone, "test", 0) == gone.reason
    assert images_of(cache, dataset=moved).image("test", 0).size == (20, 30)


def test_photos_are_turned_as_the_cache_was_told(extract: Extract, tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "train" / "cat" / "0.jpg"
    photo.parent.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(photo, exif=exif)
    caches = [
        featcache.open_cache(extract(f"folder:{tmp_path / 'photos'}", exif_orientation=how).path)
        for how in ("ignore", "apply")
    ]

    sizes = [images_of(cache).image("train", 0).size for cache in caches]

    assert sizes == [(40, 20), (20, 40)]


def test_arrays_are_those_of_a_row_if_their_pixels_are(extract: Extract) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    dataset = featcache.make_dataset((pixels, [0, 1, 0, 1]), name="mine")
    cache = featcache.open_cache(extract(dataset).path)
    other = featcache.make_dataset((pixels[::-1].copy(), [0, 1, 0, 1]), name="mine")

    assert images_of(cache).reason == (
        "The images of python:mine were given from Python, and its name alone brings none back."
    )
    _, picture = picture_of(thumbnail(images_of(cache, dataset=dataset), "train", 1))
    np.testing.assert_array_equal(picture, pixels[1])
    again = reason_of(images_of(cache, dataset=other), "train", 1)
    assert again == "another image is in its place now"


def test_items_of_a_python_object_are_those_of_a_row_if_their_pixels_are(extract: Extract) -> None:
    rng = np.random.default_rng(1)
    items = [(rng.integers(0, 256, (9, 8 + i, 3), np.uint8), i % 2) for i in range(3)]
    cache = featcache.open_cache(extract(featcache.make_dataset(items, name="mine")).path)
    turned = featcache.make_dataset([(image[::-1], k) for image, k in items], name="mine")

    same = images_of(cache, dataset=featcache.make_dataset(items, name="mine"))

    np.testing.assert_array_equal(same.image("train", 2), items[2][0])
    with pytest.raises(UnreadableImageError, match="another image is in its place now"):
        images_of(cache, dataset=turned).image("train", 2)


def test_an_older_cache_asks_for_all_images_to_be_the_same(cache: Cache, pets: Path) -> None:
    older = featcache.open_cache(as_version_1(cache.path))
    notes: list[str] = []

    same = images_of(older, on_note=notes.append)

    assert same.image("test", 0).size == (20, 30)
    assert "all images are read" in notes[0]
    save_image(pets / "test" / "cat" / "1.png", 5)
    assert images_of(older).reason == (
        f"The images of folder:{pets} are not all those of the cache any more."
    )


def test_imported_features_have_no_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "clip.npz", features=np.ones((5, 3), np.float32))
    path = featcache.import_features(
        tmp_path / "clip.npz", features="features", name="clip", cache_dir=tmp_path / "cache"
    ).path

    found = images_of(featcache.open_cache(path))

    assert found.reason == f"{path.name} was imported as features, so it has no images."


def test_what_is_not_on_the_disk_is_not_downloaded(cache: Cache, tmp_path: Path) -> None:
    found = images_of(cache, dataset="cifar10", data_dir=tmp_path)

    assert found.reason == f"The images of cifar10 are no longer in the data folder '{tmp_path}'."
    assert not (tmp_path / "cifar-10-python.tar.gz").exists()
