"""Several views of each image in a cache: the plain one first, whatever stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch

import featcache
from featcache.backbones.load import load_backbone
from featcache.core.preprocess import Preprocess
from featcache.errors import UsageError
from featcache.images.augment import draw
from featcache.images.datasets import load_dataset
from featcache.images.decode_batches import resize_image
from featcache.store import (
    command_of,
    describe_cache,
    open_cache,
    read_state,
    read_trunk_statistics,
    verify_cache,
)
from tests.conftest import SMALL_BACKBONE
from tests.extraction.conftest import Extract, specs
from tests.extraction.interruptions import interrupt

DIGITS: dict[str, Any] = {
    "dataset": "digits",
    "backbone": SMALL_BACKBONE,
    "weights": "random",
    "image_size": 32,
    "batch_size": 32,
    "limit": 48,
}


def views_of(path: Path, split: str = "train") -> npt.NDArray[Any]:
    return np.array(open_cache(path)[split].views)


def test_views_are_the_features_of_the_images_that_are_drawn(
    extract: Extract, image_folder: Path
) -> None:
    backbone = load_backbone(SMALL_BACKBONE, weights="random", image_size=32).module
    images = load_dataset(f"folder:{image_folder}", data_dir="data").splits["train"]
    assert backbone is not None

    cache = open_cache(extract(limit=5, views=3).path)

    drawn = cache.identity.views
    rows = cache["train"]
    assert rows.views.shape == (5, 3, cache.n_features)
    for row, image_id in enumerate(rows.ids):
        image = images.images.decode(list(images.ids).index(image_id))  # type: ignore[union-attr]
        for number in (1, 2):
            view = draw(drawn, image_id, number, image.size)
            pixels = resize_image(image, Preprocess.notebook(32), view)
            inputs = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
            with torch.inference_mode():
                wanted = backbone(inputs)[0].numpy()
            difference = np.abs(rows.views[row, number] - wanted).max()
            assert difference <= 1e-5 * np.abs(wanted).max()
    assert not np.array_equal(rows.views[:, 1], rows.views[:, 0])


@pytest.mark.parametrize("source", ["files", "arrays"])
def test_the_first_views_do_not_depend_on_how_many_there_are(
    source: str, extract: Extract, tmp_path: Path, small_blocks: None
) -> None:
    """Bit for bit: of one, two and four views, in blocks of other lengths and files of others."""
    if source == "arrays":
        paths = [
            featcache.extract(**DIGITS, views=n, cache_dir=tmp_path / str(n)).path
            for n in (1, 2, 4)
        ]
    else:
        paths = [extract(limit=48, views=n, cache_dir=tmp_path / str(n)).path for n in (1, 2, 4)]

    one, two, four = map(views_of, paths)

    assert (one.shape[1], two.shape[1], four.shape[1]) == (1, 2, 4)
    assert two[:, :1].tobytes() == one.tobytes()
    assert four[:, :2].tobytes() == two.tobytes()
    tests = [open_cache(path)["test"].features.tobytes() for path in paths]
    assert len(set(tests)) == 1


def test_a_resumed_file_is_byte_identical(
    extract: Extract, tmp_path: Path, small_blocks: None
) -> None:
    options: dict[str, Any] = {"limit": 100, "views": 2, "n_workers": 2}
    whole = extract(**options, cache_dir=tmp_path / "whole").path.read_bytes()

    for n_batches in (2, 4):
        folder = tmp_path / f"cut-{n_batches}"
        interrupt(extract, n_batches, **options, cache_dir=folder)
        resumed = extract(**options, cache_dir=folder)

        assert resumed.outcome == "resumed"
        assert resumed.n_rows_computed < 110 or n_batches < 3
        assert resumed.path.read_bytes() == whole


def test_adapted_batchnorm_sees_the_plain_view(extract: Extract, tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": 130, "bn": "adapted"}
    plain = extract(**options, cache_dir=tmp_path / "plain").path
    several = extract(**options, views=2, cache_dir=tmp_path / "several").path

    statistics = [read_trunk_statistics(path) for path in (plain, several)]

    assert statistics[0].keys() == statistics[1].keys()
    for name, values in statistics[0].items():
        assert np.array_equal(statistics[1][name], values)
    assert views_of(several)[:, :1].tobytes() == views_of(plain).tobytes()


def test_one_view_leaves_identity_and_file_as_they_were(extract: Extract, tmp_path: Path) -> None:
    plain = extract(limit=3, cache_dir=tmp_path / "a").path
    asked = extract(limit=3, views=1, seed=0, cache_dir=tmp_path / "b").path
    several = extract(limit=3, views=2, cache_dir=tmp_path / "b").path

    assert asked.name == plain.name
    assert asked.read_bytes() == plain.read_bytes()
    identity = open_cache(several).identity.to_json()
    said = identity.pop("views")
    assert said == {"n": 2, "augment": ["flip", "crop"], "of": "train", "seed": 0}
    assert identity == open_cache(plain).identity.to_json()


@pytest.mark.parametrize(
    "other", [{"views": 3}, {"augment": "flip"}, {"views_of": "all"}, {"seed": 1}]
)
def test_all_that_decides_the_views_is_part_of_the_identity(
    other: dict[str, Any], extract: Extract
) -> None:
    first = extract(limit=2, views=2).path

    assert extract(**{"limit": 2, "views": 2, **other}).path != first


def test_views_of_all_splits(extract: Extract) -> None:
    cache = open_cache(extract(limit=4, views=3, views_of="all", augment=("crop",)).path)

    assert [rows.views.shape[:2] for rows in cache.splits.values()] == [(4, 3), (4, 3)]
    assert "--views 3 --augment crop --views-of all" in command_of(
        cache.path, cache.identity, cache.provenance
    )


def test_rows_are_read_by_h5py_and_are_the_plain_view_for_whoever_asks_for_rows(
    extract: Extract,
) -> None:
    path = extract(limit=6, views=3, bn="adapted", store_dtype="float16").path
    cache = open_cache(path)
    rows = cache["train"]

    with h5py.File(path) as h5:
        stored = h5["train/features"][:]
        assert h5["test/features"].shape == (6, cache.n_features)

    assert (stored.shape, stored.dtype) == ((6, 3, cache.n_features), np.float16)
    assert np.array_equal(rows.views, stored)
    assert np.array_equal(rows.features, stored[:, 0])
    assert np.array_equal(rows.read(1, 5), stored[1:5, 0])
    assert np.array_equal(rows.arrays()[0], stored[:, 0])
    assert np.array_equal(rows.read_views(2, 11), stored.reshape(18, -1)[2:11])
    [described, _] = describe_cache(path).splits
    assert described.row_shape == (3, cache.n_features)
    assert verify_cache(path).is_sound


def test_what_cannot_be_read_is_zeros_in_all_views(extract: Extract, image_folder: Path) -> None:
    broken = sorted((image_folder / "train" / "cat").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:60])

    result = extract(views=2)

    rows = open_cache(result.path)["train"]
    [failure] = result.failures
    row = list(rows.ids).index(failure.id)
    assert not rows.valid[row]
    assert not rows.views[row].any()
    assert rows.views[row + 1].any(1).all()


def test_damaged_rows_are_computed_again_byte_for_byte(
    extract: Extract, small_blocks: None
) -> None:
    path = extract(limit=100, views=3, seed=4, augment="crop").path
    sound = path.read_bytes()
    extent = read_state(path).manifest.splits["train"].columns["features"]
    with path.open("r+b") as file:
        file.seek(extent.rows(70, 71)[0] + extent.row_nbytes // 2)  # in the second view
        file.write(b"\0\1\2\3")

    report = featcache.repair_cache(path)

    assert report.n_rows_computed == 36
    assert path.read_bytes() == sound


def test_several_backbones_share_their_reading(
    extract: Extract, image_folder: Path, tmp_path: Path
) -> None:
    alone = extract(limit=40, views=2, cache_dir=tmp_path / "alone").path
    options: dict[str, Any] = {
        "weights": "random",
        "image_size": 32,
        "batch_size": 32,
        "n_workers": 0,
        "limit": 40,
        "views": 2,
        "cache_dir": tmp_path / "together",
    }
    names = (SMALL_BACKBONE, "squeezenet1_1")

    notes: list[str] = []
    together = featcache.extract_all(
        specs(f"folder:{image_folder}", names, options), on_note=notes.append
    )

    assert together[0].path.read_bytes() == alone.read_bytes()
    assert not any("passes over the images" in note for note in notes)
    assert any(
        note.startswith("2 views of each training image (flip, crop), the first") for note in notes
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"augment": "flip"}, r"--augment does nothing with --views 1"),
        ({"views_of": "all"}, r"--views-of does nothing with --views 1"),
        ({"views": 2, "augment": ""}, r"--augment is empty, so that all 2 views would be the same"),
        ({"views": 2, "augment": "flip,corp"}, r"--augment is 'corp', .* Did you mean 'crop'"),
        ({"views": 0}, r"--views is 0, but must be at least 1"),
        ({"views": 65}, r"--views is 65, but must be at most 64"),
        (
            {"views": 2, "backbone": "pixels", "weights": "DEFAULT", "batch_size": None},
            r"--views 2 needs a backbone, but the backbone 'pixels' stores the images",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: dict[str, Any], why: str, extract: Extract
) -> None:
    with pytest.raises(UsageError, match=why):
        extract(**options)


@pytest.mark.parametrize("typed", ["crop,flip", ("flip", "crop"), ["crop", "flip"], ["flip,crop"]])
def test_augmentations_are_taken_as_they_are_typed_and_put_into_one_order(typed: Any) -> None:
    assert featcache.ExtractSpec(views=2, augment=typed).augment == ("flip", "crop")


def test_views_of_a_training_split_that_is_not_there_are_refused(
    extract: Extract, image_folder: Path
) -> None:
    dataset = f"images:{image_folder}"

    with pytest.raises(UsageError, match=r"of the split 'train', but .* has only all\. Nothing"):
        featcache.extract(dataset, backbone=SMALL_BACKBONE, weights="random", views=2)


def test_the_account_counts_every_view(extract: Extract) -> None:
    result = extract(limit=10, views=3)

    account = result.account
    assert account is not None
    # 40 images ran, 30 of them views of training images; an epoch end to end is 10 of them.
    assert account.extraction_s == pytest.approx(4 * account.end_to_end_epoch_s)
