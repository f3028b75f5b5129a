"""A head in Python: the same answers for paths, PIL images, arrays and tensors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featcache
from featcache.errors import DatasetError, UsageError
from tests.conftest import save_image
from tests.deployment.conftest import Extract
from tests.deployment.heads import save_random_head


@pytest.fixture
def predictor(of_digits: Extract, tmp_path: Path) -> featcache.Predictor:
    head = save_random_head(of_digits().path, tmp_path / "run")
    return featcache.load_predictor(head.path.parent, n_workers=0, compile="never")


@pytest.fixture
def pixels() -> np.ndarray:
    """(8, 8, 8, 3) uint8, the digits on which the head is tested."""
    return featcache.load_dataset("digits", data_dir="data").limited(8).splits["test"].images.pixels


def test_arrays_pil_images_tensors_and_paths_have_the_same_answers(
    predictor: featcache.Predictor, pixels: np.ndarray, tmp_path: Path
) -> None:
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(8)]

    of_array = predictor.predict(pixels)

    for given in (
        paths,
        [Image.fromarray(image) for image in pixels],
        list(pixels),
        [torch.from_numpy(image).permute(2, 0, 1) for image in pixels],
        [paths[0], *pixels[1:]],
    ):
        found = predictor.predict(given)
        assert found.classes == of_array.classes
        assert found.probabilities.tobytes() == of_array.probabilities.tobytes()
    assert of_array.probabilities.shape == (8, 10)
    assert np.allclose(of_array.probabilities.sum(1), 1)
    assert of_array.ids == tuple("01234567")


def test_one_image_is_answered_as_among_64(
    predictor: featcache.Predictor, pixels: np.ndarray
) -> None:
    among = predictor.predict(np.concatenate([pixels] * 8))

    for i in range(8):
        alone = predictor.predict(pixels[i])
        assert alone.classes == among.classes[i : i + 1]
        assert np.abs(alone.probabilities - among.probabilities[i]).max() <= 1e-5


def test_a_bad_image_has_a_reason_and_no_class(
    predictor: featcache.Predictor, pixels: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    cut = tmp_path / "cut.png"
    save_image(cut, 0)
    cut.write_bytes(cut.read_bytes()[:-300])

    with Image.open(cut) as opened:
        found = predictor.predict([tmp_path / "bad.png", opened, pixels[0]])

    assert found.classes[:2] == (None, None)
    assert found.classes[2] is not None
    assert np.isnan(found.probabilities[:2]).all()
    assert found.reasons[0] == "not an image"
    assert "truncated" in found.reasons[1]


def test_threads_take_turns(predictor: featcache.Predictor, pixels: np.ndarray) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(predictor.predict, [pixels] * 8))

    assert len({one.probabilities.tobytes() for one in found}) == 1


def test_no_images_have_no_answers(predictor: featcache.Predictor) -> None:
    assert len(predictor.predict([])) == 0
    assert len(predictor.predict(np.zeros((0, 8, 8, 3), np.uint8))) == 0


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (np.zeros((2, 8, 8, 3)), r"an array of float64 of shape \(2, 8, 8, 3\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"an array of uint8 of shape \(2, 3, 8, 8\)"),
        ([7], "image 0 is int"),
        (None, "image 0 is NoneType"),
    ],
)
def test_what_is_no_image_is_refused(
    predictor: featcache.Predictor, given: object, got: str
) -> None:
    with pytest.raises(UsageError, match=f"These are no images: {got}"):
        predictor.predict(given)


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (np.zeros((2, 8, 8)), r"image 0 is float64 of shape \(2, 8, 8\); expected .*"),
        (torch.full((3, 8, 8), 0.123), r"image 0 has values that are no grey levels .*"),
    ],
)
def test_an_array_that_is_no_image_is_refused_by_what_was_not_done(
    predictor: featcache.Predictor, given: object, got: str
) -> None:
    with pytest.raises(DatasetError, match=f"{got} Nothing was predicted\\."):
        predictor.predict(given)


def test_a_path_that_is_not_there_is_refused(predictor: featcache.Predictor) -> None:
    with pytest.raises(DatasetError, match=r"nothing\.png does not exist"):
        predictor.predict("nothing.png")


def test_photos_are_turned_where_the_head_was_trained_on_turned_ones(tmp_path: Path) -> None:
    for i in range(6):
        save_image(tmp_path / "pets" / f"c{i % 2}" / f"{i}.png", i)
    made = featcache.extract(
        f"folder:{tmp_path}/pets", backbone="pixels", image_size=8, n_workers=0,
        exif_orientation="apply", cache_dir=tmp_path / "cache",
    )  # fmt: skip
    head = save_random_head(made.path, tmp_path / "run")
    photo = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "pets" / "c0" / "0.png") as image:
        image.save(photo, exif=exif)
        turned = image.rotate(-90, expand=True)
    predictor = featcache.load_predictor(head.path.parent, n_workers=0)

    of_path = predictor.predict(photo)
    with Image.open(photo) as opened:
        of_image = predictor.predict(opened)

    upright = predictor.predict(turned)
    assert of_path.probabilities.tobytes() == of_image.probabilities.tobytes()
    assert of_path.probabilities.tobytes() == upright.probabilities.tobytes()
