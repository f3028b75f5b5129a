"""The rows nearest to an image: exact, of the right backbone, and whatever is asked, an answer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featcache
from featcache.errors import DatasetError, FeatcacheError, MismatchError, UsageError, WeightsError
from featcache.store import Cache
from tests.conftest import SMALL_BACKBONE, save_image
from tests.feature_caches import MakeCache, learnable_rows
from tests.store.conftest import Rows

Extract = Callable[..., featcache.ExtractResult]


@pytest.fixture
def extract(pets: Path, tmp_path: Path) -> Extract:
    """`featcache.extract` of the pets, through a small random backbone at 32 px."""
    return partial(
        featcache.extract,
        f"folder:{pets}",
        backbone=SMALL_BACKBONE,
        weights="random",
        image_size=32,
        batch_size=4,
        n_workers=0,
        compile="never",
        cache_dir=tmp_path / "cache",
    )


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes; five images to train, one of them damaged, and two to test."""
    root = tmp_path / "pets"
    for i in range(5):
        save_image(root / "train" / ("cat" if i % 2 else "dog") / f"{i}.png", i, size=(40, 30 + i))
    (root / "train" / "dog" / "4.png").write_bytes(b"damaged")
    for i in range(2):
        save_image(root / "test" / ("cat" if i % 2 else "dog") / f"{i}.png", 10 + i)
    return root


def cosines(features: np.ndarray, asked: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(asked)
    return features @ asked / lengths


def test_each_row_of_all_splits_is_compared_but_the_row_itself(cache: Cache) -> None:
    asked = cache["test"].features[7].astype(np.float64)
    rows = [(name, i) for name in cache for i in range(len(cache[name])) if cache[name].valid[i]]
    features = np.stack([cache[name].features[i] for name, i in rows]).astype(np.float64)
    expected = dict(zip(rows, cosines(features, asked).tolist(), strict=True))
    del expected["test", 7]

    found = featcache.similar("test:7", cache=cache, k=12)

    best = sorted(expected, key=lambda row: -expected[row])[:12]
    assert [(one.split, one.row) for one in found.neighbours] == best
    assert [one.similarity for one in found.neighbours] == pytest.approx(
        [expected[row] for row in best], abs=1e-5
    )
    assert (found.image, found.split, found.row, found.label) == ("7", "test", 7, "bee")
    assert found.n_rows == 257
    first = found.neighbours[0]
    assert first.label == cache.class_names[int(cache[first.split].labels[first.row])]


def test_one_split_can_be_looked_through(cache: Cache) -> None:
    found = featcache.similar("test:7", cache=cache, k=3, split="train")

    assert {one.split for one in found.neighbours} == {"train"}
    assert found.n_rows == 198


def test_more_neighbours_than_rows_are_all_rows_with_a_note(cache: Cache) -> None:
    notes: list[str] = []

    found = featcache.similar("train:0", cache=cache, k=500, split="test", on_note=notes.append)

    assert len(found.neighbours) == 60
    assert notes[-1] == "500 were asked for, but there are 60 other rows: all are told"


def test_an_image_that_is_in_the_cache_finds_itself(extract: Extract, pets: Path) -> None:
    path = extract().path
    copy = shutil.copy(pets / "train" / "cat" / "3.png", pets.parent / "copy.png")

    found = featcache.similar(copy, cache=path, k=6)

    first, *others = found.neighbours
    assert (first.split, first.id, first.is_same_image) == ("train", "train/cat/3.png", True)
    assert first.similarity == pytest.approx(1, abs=1e-5)
    assert not any(one.is_same_image for one in others)
    assert (found.image, found.split, found.row, found.label) == (str(copy), None, None, None)
    as_a_row = featcache.similar("train/cat/3.png", cache=path, k=5)
    assert [one.id for one in as_a_row.neighbours] == [one.id for one in others]
    assert [one.similarity for one in as_a_row.neighbours] == pytest.approx(
        [one.similarity for one in others], abs=1e-4
    )


def test_features_of_half_precision_are_compared_as_the_cache_keeps_them(
    extract: Extract, pets: Path
) -> None:
    path = extract(backbone="resnet18", store_dtype="float16").path

    found = featcache.similar(pets / "test" / "dog" / "0.png", cache=path, k=1)

    assert found.neighbours[0].similarity == pytest.approx(1, abs=1e-5)


def test_pixels_are_brought_to_the_size_of_the_rows(tmp_path: Path) -> None:
    path = featcache.extract(
        "digits", backbone="pixels", image_size=16, limit=40, cache_dir=tmp_path
    ).path
    digit = featcache.open_cache(path)["train"].features[3]
    Image.fromarray(np.asarray(digit)).resize((64, 64)).save(tmp_path / "large.png")

    found = featcache.similar(tmp_path / "large.png", cache=path, k=1)

    assert (found.neighbours[0].row, found.neighbours[0].is_same_image) == (3, False)
    assert found.neighbours[0].similarity > 0.95


def test_images_without_labels_have_neighbours_without_classes(make_cache: MakeCache) -> None:
    rows = learnable_rows(9, seed=1)
    splits = {"all": Rows(rows.features, None, rows.ids, {})}
    path = make_cache("unlabelled.h5", splits=splits, class_names=())

    found = featcache.similar("4", cache=path, k=2)

    assert [one.label for one in found.neighbours] == [None, None]
    assert found.label is None


def test_imported_features_are_asked_by_their_ids_alone(tmp_path: Path, pets: Path) -> None:
    features = np.random.default_rng(0).random((12, 5), dtype=np.float32)
    np.savez(tmp_path / "clip.npz", features=features)
    path = featcache.import_features(
        tmp_path / "clip.npz", features="features", name="clip", cache_dir=tmp_path / "cache"
    ).path

    assert featcache.similar("5", cache=path, k=20).n_rows == 11
    with pytest.raises(UsageError, match=r"features that were imported.*Name a row of the cache"):
        featcache.similar(pets / "test" / "dog" / "0.png", cache=path)


def test_a_part_of_one_id_is_enough_and_told(extract: Extract) -> None:
    notes: list[str] = []

    found = featcache.similar("cat/3", cache=extract().path, k=1, on_note=notes.append)

    assert found.image == "train/cat/3.png"
    assert "'cat/3' is part of the id 'train/cat/3.png' alone, in split 'train'" in notes


def test_an_id_is_meant_where_a_file_has_that_name_too(
    extract: Extract, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = extract().path
    monkeypatch.chdir(pets)
    notes: list[str] = []

    as_row = featcache.similar("train/cat/1.png", cache=path, k=1, on_note=notes.append)
    as_file = featcache.similar("./train/cat/1.png", cache=path, k=1)

    assert (as_row.row, as_file.row) == (0, None)
    assert any("for the file of that name write ./train/cat/1.png" in note for note in notes)


def test_the_likeliest_of_numbered_ids_comes_first(make_cache: MakeCache) -> None:
    rows = learnable_rows(10, seed=1)
    ids = [f"test/cat/{i:04d}.jpg" for i in range(10)]
    cache = featcache.open_cache(make_cache(splits={"test": replace(rows, ids=ids)}))

    with pytest.raises(UsageError, match=r"Did you mean 'test/cat/0000\.jpg', "):
        featcache.similar("test/cat/000.jpg", cache=cache)


@pytest.mark.parametrize(("side", "is_told"), [(200, True), (8, False)])
def test_a_photograph_among_rows_of_few_pixels_is_told(
    tmp_path: Path, side: int, is_told: bool
) -> None:
    path = featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=20, cache_dir=tmp_path
    ).path
    save_image(tmp_path / "photo.png", 1, size=(side, side))
    notes: list[str] = []

    featcache.similar(tmp_path / "photo.png", cache=path, on_note=notes.append)

    assert any("are the pixels of images of 8 by 8" in note for note in notes) == is_told


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("7", r"'7' is an id in several splits .*Say which is meant: train:7 or test:7"),
        ("train:5", r"train row 5 \('5'\) of .* has no features: broken"),
        ("nosuch", "There is no file 'nosuch', and toy-00000000.h5 has no row with that id"),
        ("train:999", r"has no row with that id. Did you mean '99', '199'"),
        ("train:0112", r"Did you mean '112', "),
        ("", "There is no file ''"),
        (Path("nosuch"), "nosuch does not exist. Nothing was compared"),
        (Path("/"), "/ is a folder. Nothing was compared. Name one image"),
        (Path(os.devnull), "is no regular file"),
        (3, "IMAGE is 3, but must be text"),
    ],
    ids=str,
)
def test_what_names_no_single_row_and_no_image_is_refused(
    cache: Cache, asked: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        featcache.similar(asked, cache=cache)


def test_misspelt_ids_are_met_with_near_ones(extract: Extract) -> None:
    path = extract().path

    with pytest.raises(UsageError, match=r"Did you mean 'train/cat/1.png'"):
        featcache.similar("train/cta/1.png", cache=path)
    with pytest.raises(UsageError, match=r"part of several ids .*train:train/cat/1.png, train:"):
        featcache.similar("/cat/", cache=path)


def test_an_image_that_cannot_be_read_is_refused_with_the_reason(
    cache: Cache, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no image")

    with pytest.raises(DatasetError, match=r"notes.txt cannot be read as an image: not an image"):
        featcache.similar(tmp_path / "notes.txt", cache=cache)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, UsageError, "--k is 0, but must be at least 1"),
        ({"split": "tset"}, UsageError, "Unknown split 'tset'. Did you mean 'test'"),
        ({"out": "page.pdf"}, UsageError, "must end in .html. .* 'page.html'"),
        ({"cache": "nosuch"}, FeatcacheError, "There is no cache 'nosuch'"),
        ({"device": "gpu"}, UsageError, "--device 'gpu'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    cache: Cache, options: dict[str, object], error: type[FeatcacheError], message: str
) -> None:
    with pytest.raises(error, match=message):
        featcache.similar("train:0", **{"cache": cache, **options})  # type: ignore[arg-type]


def test_another_backbone_than_that_of_the_cache_is_refused(
    extract: Extract, pets: Path, tmp_path: Path
) -> None:
    path = extract().path
    image = pets / "test" / "dog" / "0.png"
    torch.save({"nothing": torch.zeros(3)}, tmp_path / "other.pth")

    with pytest.raises(MismatchError, match=f"{path} holds features of {SMALL_BACKBONE}, but --b"):
        featcache.similar(image, cache=path, backbone="resnet18")
    with pytest.raises(WeightsError):
        featcache.similar(image, cache=path, weights=str(tmp_path / "other.pth"))
    assert featcache.similar("test:test/dog/0.png", cache=path, backbone="resnet18").neighbours


def test_a_page_shows_the_image_and_its_neighbours(extract: Extract, pets: Path) -> None:
    path, out = extract().path, pets.parent / "pages" / "page.html"
    asked = pets / "train" / "<b>cat.png"
    shutil.copy(pets / "train" / "cat" / "1.png", asked)

    found = featcache.similar(asked, cache=path, k=4, out=out)
    again = featcache.similar("train/cat/1.png", cache=path, k=2, out=out)

    page = out.read_text()
    assert found.page == again.page == out
    assert page.count('<img src="data:image/') == 3
    assert "train/cat/1.png" in page
    assert "the same image" not in page


def test_names_on_a_page_are_text_and_the_same_image_is_said(extract: Extract, pets: Path) -> None:
    path, out = extract().path, pets.parent / "page.html"
    asked = shutil.copy(pets / "train" / "cat" / "1.png", pets / "<b>cat.png")

    featcache.similar(asked, cache=path, k=4, out=out)

    page = out.read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;cat.png" in page
    assert page.count("the same image") == 1
    assert "<script" not in page


def test_a_page_without_the_images_says_why(extract: Extract, pets: Path) -> None:
    path, out = extract().path, pets.parent / "page.html"
    moved = pets.rename(pets.parent / "moved")

    featcache.similar("train/cat/1.png", cache=path, k=2, out=out)
    without = out.read_text()
    featcache.similar("train/cat/1.png", cache=path, k=2, out=out, dataset=f"folder:{moved}")

    assert without.count(f"The images of folder:{pets} are no longer there.") == 1
    assert "<img" not in without
    assert "<img" in out.read_text()


def test_a_page_replaces_no_file_of_another_program(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("<html>mine</html>")

    with pytest.raises(UsageError, match=r"mine.html exists, and is no page that featcache wrote"):
        featcache.similar("train:0", cache=cache, out=tmp_path / "mine.html")

    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"
