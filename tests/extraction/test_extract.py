from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import featcache
from featcache.backbones.load import load_backbone
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import silent
from featcache.core.tensor_files import state_digest
from featcache.extraction.opening import open_images
from featcache.extraction.plan import make_plan
from featcache.extraction.run import make_caches
from tests.conftest import SMALL_BACKBONE
from tests.extraction.conftest import Extract, specs
from tests.reference_transform import reference_transform
from tests.weights_files import save_weights


def test_extract_computes_then_reuses(extract: Extract) -> None:
    first, second = extract(), extract()

    assert (first.outcome, first.n_rows, first.n_rows_computed) == ("computed", 310, 310)
    assert (second.outcome, second.n_rows_computed) == ("reused", 0)
    assert first.path == second.path
    assert first.path.name == f"{SMALL_BACKBONE}-{first.fingerprint[:8]}.h5"


@pytest.mark.parametrize(
    ("backbone", "preprocess"),
    [
        ("vgg16", "notebook"),
        ("mobilenet_v3_large", "notebook"),
        ("mobilenet_v2", "notebook"),
        ("mobilenet_v2", "weights"),
        ("resnet18", "weights"),
    ],
)
def test_rows_equal_a_plain_forward_of_one_image(
    extract: Extract, image_folder: Path, tmp_path: Path, backbone: str, preprocess: str
) -> None:
    weights = "random"
    if backbone == "vgg16":
        weights = str(save_weights(tmp_path / "vgg16.pth", backbone, image_size=64))
    result = extract(
        backbone=backbone, weights=weights, preprocess=preprocess, image_size=64, limit=6
    )

    cache = featcache.open_cache(result.path)
    module = load_backbone(backbone, weights=weights).module
    assert module is not None
    spec = dict(cache.identity["preprocess"])
    for name in ("resize", "mean", "std"):
        spec[name] = tuple(spec[name]) if isinstance(spec[name], list) else spec[name]
    transform = reference_transform(Preprocess(**spec))
    for split in cache.splits.values():
        for i, image_id in enumerate(split.ids):
            with Image.open(image_folder / image_id) as image, torch.inference_mode():
                expected = module(transform(image.convert("RGB"))[None])[0].numpy()
            difference = np.abs(split.features[i] - expected).max()
            assert difference <= 1e-4 * np.abs(expected).max()
            assert split.labels[i] == cache.class_names.index(Path(image_id).parts[1])


def test_a_row_does_not_depend_on_where_its_batch_ends(extract: Extract, tmp_path: Path) -> None:
    all_rows = featcache.open_cache(extract().path)["test"].features
    assert len(all_rows) == 10  # a short batch of a grid of 32

    alone = featcache.open_cache(extract(batch_size=10, cache_dir=tmp_path / "b").path)
    difference = np.abs(alone["test"].features - all_rows).max()
    assert difference <= 1e-5 * np.abs(all_rows).max()


@pytest.mark.parametrize("n_workers", [1, 3])
def test_the_number_of_workers_changes_no_byte(
    extract: Extract, tmp_path: Path, n_workers: int
) -> None:
    alone = extract(cache_dir=tmp_path / "alone")
    helped = extract(cache_dir=tmp_path / "helped", n_workers=n_workers)

    assert helped.path.read_bytes() == alone.path.read_bytes()


def test_unreadable_images_are_marked_listed_and_not_in_the_way(
    extract: Extract, image_folder: Path
) -> None:
    (image_folder / "train" / "cat" / "000-empty.png").touch()
    (image_folder / "train" / "dog" / "zzz.jpg").write_bytes(b"not an image")

    result = extract(n_workers=2)

    assert result.n_rows == 312
    reasons = {failure.id: failure.reason for failure in result.failures}
    assert reasons == {"train/cat/000-empty.png": "empty file", "train/dog/zzz.jpg": "not an image"}
    train = featcache.open_cache(result.path)["train"]
    assert not train.valid[[0, 301]].any()
    assert train.valid[1:301].all()
    assert (train.features[0] == 0).all()
    assert extract().failures == result.failures


def test_any_h5py_user_reads_the_file(extract: Extract) -> None:
    path = extract().path

    with h5py.File(path) as h5:
        features, labels = h5["train/features"], h5["train/labels"]
        assert features.shape == (300, 576)
        assert np.bincount(labels[:]).tolist() == [150, 150]
        assert h5["train/ids"][0] == b"train/cat/001.png"
        assert h5["test/valid"][:].all()
        cached = featcache.open_cache(path)["train"].features
        assert (features[:] == cached).all()


def test_pixels_stores_the_images_themselves(extract: Extract, image_folder: Path) -> None:
    result = extract(backbone="pixels", weights="DEFAULT")

    train = featcache.open_cache(result.path)["train"]
    assert train.features.shape == (300, 32, 32, 3)
    assert train.features.dtype == np.uint8
    with Image.open(image_folder / train.ids[7]) as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    assert (train.features[7] == expected).all()


def test_limit_takes_evenly_spaced_rows_of_every_class(extract: Extract) -> None:
    train = featcache.open_cache(extract(limit=6).path)["train"]

    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.ids[:2] == ["train/cat/001.png", "train/cat/101.png"]


def test_float16_halves_the_rows_and_rounds_them(extract: Extract) -> None:
    options = {"backbone": "resnet18", "limit": 20}

    single = featcache.open_cache(extract(**options).path)["train"].features
    half = featcache.open_cache(extract(**options, store_dtype="float16").path)["train"].features

    assert half.dtype == np.float16
    assert np.ptp(half) > 0.1
    assert (half == single.astype(np.float16)).all()


def test_extraction_changes_no_parameter_and_no_buffer(extract: Any) -> None:
    options = {**extract.keywords, "limit": 40}
    [spec] = specs(extract.args[0], (SMALL_BACKBONE,), options)
    images = open_images(spec, on_note=silent)
    plan = make_plan(spec, images, on_progress=silent, on_note=silent)

    make_caches([plan], on_progress=silent, on_note=silent)

    backbone = plan.backbone
    assert backbone.module is not None
    assert state_digest(backbone.module.state_dict()) == backbone.weights_sha256
    assert not backbone.module.training


def test_what_goes_on_before_the_first_row_is_told(extract: Extract) -> None:
    stages = []

    extract(on_progress=lambda progress: stages.append((progress.stage, progress.n_total)))

    begun = list(dict.fromkeys(stages))
    assert begun[-5:-1] == [("weights", 0), ("probe", 0), ("engines", 0), ("extract", 300)]
