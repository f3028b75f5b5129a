"""Images without labels: one split, a cache without labels, and what needs them refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache.errors import DatasetError, UsageError
from featcache.images.datasets import load_dataset
from tests.conftest import save_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images at several depths, two of them beside a file that is none."""
    folder = tmp_path / "photos"
    for i, place in enumerate(("b.png", "a.png", "x/c.png", "x/y/z/d.png", "train/cat/e.png")):
        save_image(folder / place, i, size=(9, 8))
    (folder / "notes.txt").write_text("none")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def extract(name: Any, folder: Path, **options: Any) -> featcache.ExtractResult:
    asked = {"backbone": "pixels", "image_size": 8, "n_workers": 0, **options}
    return featcache.extract(name, cache_dir=folder / "cache", **asked)


def test_all_images_below_a_folder_are_one_split_without_labels(
    photos: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(f"images:{photos}", data_dir=tmp_path)

    cache = featcache.open_cache(extract(f"images:{photos}", tmp_path).path)

    ids = ["a.png", "b.png", "train/cat/e.png", "x/c.png", "x/y/z/d.png"]
    assert list(dataset.splits["all"].ids) == list(cache["all"].ids) == ids
    assert dataset.summary == "images: all 5; without labels"
    assert dataset.notes == ("Files without an image extension left out: 1, e.g. 'notes.txt'.",)
    assert list(cache.splits) == ["all"]
    assert cache["all"].labels is None
    assert cache.class_names == ()
    assert cache.path.parent.name == "images-photos"


def test_training_on_it_refuses_and_what_needs_no_labels_works(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = {"backbone": "mobilenet_v3_small", "weights": "random", "image_size": 32}
    result = extract("images:photos", tmp_path, **net)
    whole = result.path.read_bytes()
    row = featcache.open_cache(result.path)["all"].features[2].tobytes()
    at = whole.index(row)
    result.path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])

    report = featcache.repair_cache(result.path)
    again = extract("images:photos", tmp_path, **net)
    parity = featcache.parity(result.path, levels=(1,))

    assert report.n_rows_computed > 0
    assert again.outcome == "reused"
    assert result.path.read_bytes() == whole
    assert parity.holds
    with pytest.raises(UsageError, match="has no labels"):
        featcache.train_head(dataset="images:photos", backbone="mobilenet_v3_small")
    with pytest.raises(UsageError, match="'test' to compare predictions on"):
        featcache.parity(result.path, levels=(2,))


def test_adapted_batch_norm_needs_no_labels(photos: Path, tmp_path: Path) -> None:
    net = {"backbone": "mobilenet_v3_small", "weights": "random", "image_size": 32}

    result = extract(f"images:{photos}", tmp_path, bn="adapted", **net)

    assert result.n_rows == 5


def test_a_folder_without_images_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")

    with pytest.raises(DatasetError, match=r"holds no image.* e\.g\. 'notes\.txt'"):
        load_dataset(f"images:{tmp_path}/empty", data_dir=tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        load_dataset(f"images:{tmp_path}/no", data_dir=tmp_path)
    with pytest.raises(DatasetError, match="is a file"):
        load_dataset(f"images:{tmp_path}/empty/notes.txt", data_dir=tmp_path)
    save_image(tmp_path / "flat" / "a.png", 0)
    with pytest.raises(DatasetError, match="For images without classes: images:PATH"):
        load_dataset(f"folder:{tmp_path}/flat", data_dir=tmp_path)


def test_a_list_of_empty_labels_has_none_and_one_of_some_is_refused(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "l.csv").write_text("path,label\nb.png,\na.png,\n")
    (photos / "s.csv").write_text("path,split\nb.png,test\na.png,train\n")
    (photos / "l.jsonl").write_text('{"path": "b.png"}\n{"path": "a.png", "label": null}\n')

    empty = load_dataset(f"list:{photos}/l.csv", data_dir=tmp_path)
    lines = load_dataset(f"list:{photos}/l.jsonl", data_dir=tmp_path)
    said = load_dataset(f"list:{photos}/s.csv#label=", data_dir=tmp_path)

    for dataset in (empty, lines):
        assert list(dataset.splits) == ["all"]
        assert list(dataset.splits["all"].ids) == ["b.png", "a.png"]
        assert dataset.splits["all"].labels is None
    assert list(said.splits) == ["train", "test"]
    cache = featcache.open_cache(extract(f"list:{photos}/l.csv", tmp_path).path)
    assert cache["all"].labels is None
    with pytest.raises(UsageError, match=r"no column 'label'.*--label-column \('' for images"):
        load_dataset(f"list:{photos}/s.csv", data_dir=tmp_path)


def test_the_digest_tells_images_with_labels_from_the_same_without(
    photos: Path, tmp_path: Path
) -> None:
    names = ["a.png", "b.png"]
    (photos / "l.csv").write_text("path,label\n" + "".join(f"{name},x\n" for name in names))
    (photos / "n.csv").write_text("path,label\n" + "".join(f"{name},\n" for name in names))
    pixels = np.zeros((2, 4, 4, 3), np.uint8)

    digests = {
        load_dataset(f"list:{photos}/l.csv", data_dir=tmp_path).digest(),
        load_dataset(f"list:{photos}/n.csv", data_dir=tmp_path).digest(),
        featcache.make_dataset((pixels, None), name="mine").digest(),
        featcache.make_dataset((pixels, [0, 0]), name="mine").digest(),
    }

    assert len(digests) == 4
