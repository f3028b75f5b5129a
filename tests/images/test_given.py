"""Images from Python: arrays and torch Datasets, whose pixels become rows unchanged."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import RandomHorizontalFlip, ToTensor

import featcache
from featcache.errors import DatasetError, MismatchError, UsageError
from featcache.images.datasets import load_dataset
from featcache.images.splits import ArrayImages
from tests.conftest import save_image

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 12, 16, 3), dtype=np.uint8)
LABELS = [i % 2 for i in range(10)]


class Listed(TorchDataset[Any]):
    """A torch Dataset of what it is given."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def extract(dataset: Any, folder: Path, **options: Any) -> featcache.ExtractResult:
    asked = {"backbone": "pixels", "image_size": 8, "n_workers": 2, **options}
    return featcache.extract(dataset, cache_dir=folder / "cache", **asked)


def pixels_of(dataset: featcache.images.splits.Dataset, split: str = "train") -> list[Any]:
    images = dataset.splits[split].images
    if isinstance(images, ArrayImages):
        return list(images.pixels)
    return [np.asarray(images.decode(row)) for row in range(len(images))]


def test_class_names_without_labels_are_refused() -> None:
    labelled = featcache.make_dataset((PIXELS, LABELS), name="mine")
    unlabelled = {"train": replace(labelled.splits["train"], labels=None)}

    with pytest.raises(DatasetError, match="has no labels, but the dataset names 2 classes"):
        load_dataset(replace(labelled, splits=unlabelled), data_dir="data")


@pytest.mark.parametrize(
    "images",
    [
        (PIXELS, LABELS),
        (torch.from_numpy(PIXELS), torch.tensor(LABELS)),
        Listed([(Image.fromarray(p), k) for p, k in zip(PIXELS, LABELS, strict=True)]),
        Listed([(p, np.int64(k)) for p, k in zip(PIXELS, LABELS, strict=True)]),
        Listed([(ToTensor()(Image.fromarray(p)), k) for p, k in zip(PIXELS, LABELS, strict=True)]),
        TensorDataset(torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.tensor(LABELS)),
        [(p, ("zero", "one")[k]) for p, k in zip(PIXELS, LABELS, strict=True)],
    ],
    ids=["arrays", "tensors", "PIL", "numpy", "ToTensor", "TensorDataset", "names"],
)
def test_all_that_holds_the_same_pixels_gives_them_unchanged(images: Any) -> None:
    dataset = featcache.make_dataset(images, name="mine", class_names=["zero", "one"])

    assert dataset.class_names == ("zero", "one")
    assert dataset.splits["train"].labels.tolist() == LABELS
    np.testing.assert_array_equal(pixels_of(dataset), PIXELS)


def test_equal_pixels_have_one_digest_as_an_array_and_as_an_object() -> None:
    items = Listed([(Image.fromarray(p), k) for p, k in zip(PIXELS, LABELS, strict=True)])

    arrays = featcache.make_dataset((PIXELS, LABELS), name="mine").limited(4).splits["train"]
    objects = featcache.make_dataset(items, name="mine").limited(4).splits["train"]

    of_pixels = [list(hashlib.sha256(PIXELS[i].tobytes()).digest()) for i in (0, 2, 5, 7)]
    assert arrays.image_sha256().tolist() == of_pixels
    assert objects.image_sha256().tolist() == of_pixels


def test_images_of_the_same_bytes_and_another_size_are_others(tmp_path: Path) -> None:
    turned = Listed([(np.zeros((2, 3), np.uint8), 0)])
    dataset = featcache.make_dataset(turned, name="mine")
    wide = dataset.digest()

    turned.items = [(np.zeros((3, 2), np.uint8), 0)]

    assert featcache.make_dataset(turned, name="mine").digest() != wide
    with pytest.raises(MismatchError, match=r"another image the second time .* Nobody could make"):
        extract(dataset, tmp_path)


def test_arrays_of_decoded_files_have_another_digest_and_equal_pixels(tmp_path: Path) -> None:
    for i in range(6):
        save_image(tmp_path / "pets" / ("cat" if i % 2 else "dog") / f"{i}.png", i, size=(12, 16))
    folder = featcache.load_dataset(f"folder:{tmp_path}/pets", data_dir=tmp_path)
    split = folder.splits["train"]
    decoded = np.stack(pixels_of(folder))

    arrays = featcache.make_dataset(
        (decoded, split.labels), name="pets", class_names=folder.class_names
    )
    by_torch = featcache.make_dataset(ImageFolder(str(tmp_path / "pets")), name="pets")

    assert len({folder.digest(), arrays.digest(), by_torch.digest()}) == 3
    np.testing.assert_array_equal(pixels_of(arrays), decoded)
    np.testing.assert_array_equal(pixels_of(by_torch), decoded)
    assert by_torch.class_names == folder.class_names
    rows = {}
    for name, dataset in {"folder": f"folder:{tmp_path}/pets", "torch": by_torch}.items():
        cache = featcache.open_cache(extract(dataset, tmp_path / name).path)
        rows[name] = cache["train"].features.tobytes()
    assert rows["folder"] == rows["torch"]


def test_a_cache_of_given_images_is_resumed_reused_repaired_and_compared(tmp_path: Path) -> None:
    sizes = [(12, 16), (16, 12)]
    items = [(Image.fromarray(p).resize(sizes[k]), k) for p, k in zip(PIXELS, LABELS, strict=True)]
    splits = {"train": Listed(items), "test": Listed(items[:4])}
    dataset = featcache.make_dataset(splits, name="mine")
    net = {"backbone": "mobilenet_v3_small", "weights": "random", "image_size": 32}

    result = extract(dataset, tmp_path, **net)
    again = extract(featcache.make_dataset(splits, name="mine"), tmp_path, **net)
    whole = result.path.read_bytes()
    offset = whole.index(featcache.open_cache(result.path)["test"].features[1].tobytes())
    result.path.write_bytes(whole[:offset] + b"\xff" + whole[offset + 1 :])
    with pytest.raises(UsageError, match=r"python:mine were given from Python.*make_dataset"):
        featcache.repair_cache(result.path)
    featcache.repair_cache(result.path, dataset=dataset)
    report = featcache.parity(result.path, dataset=dataset, levels=(1,))
    same = featcache.verify_images(result.path, dataset=dataset)

    assert (result.outcome, again.outcome) == ("computed", "reused")
    assert result.path.parent.name == "python-mine"
    assert result.path.read_bytes() == whole
    assert report.holds
    assert same.are_same
    other = featcache.make_dataset({**splits, "test": Listed(items[1:5])}, name="mine")
    changed = featcache.verify_images(result.path, dataset=other).changed
    assert [(image.split, image.row) for image in changed] == [("test", row) for row in range(4)]
    with pytest.raises(MismatchError, match="made from other images than those of python:mine"):
        featcache.parity(result.path, dataset=other, levels=(1,))


def test_an_image_that_is_another_the_second_time_is_refused(tmp_path: Path) -> None:
    class Flipping(Listed):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            self.n_asked = getattr(self, "n_asked", 0) + 1
            return RandomHorizontalFlip(float(self.n_asked > 10))(image), label

    items = [(Image.fromarray(p), k) for p, k in zip(PIXELS, LABELS, strict=True)]
    dataset = featcache.make_dataset(Flipping(items), name="mine")

    with pytest.raises(
        MismatchError, match=r"item 0 of split 'train' of python:mine gives another"
    ):
        extract(dataset, tmp_path)


class Broken(Listed):
    def __getitem__(self, index: int) -> Any:
        raise FileNotFoundError("no such\nphoto")


UNUSABLE: dict[str, tuple[Any, str]] = {
    "no dataset": (3, "is int; expected arrays"),
    "an error": (Broken([1]), "Item 0 of .* cannot be had: FileNotFoundError: no such photo"),
    "no pair": (Listed([PIXELS[0]]), "Item 0 of .* is ndarray; expected"),
    "normalised": (
        Listed([(torch.randn(3, 4, 4), 0)]),
        "has values that are no grey levels divided by 255, as behind Normalize",
    ),
    "NaN": (Listed([(torch.full((3, 4, 4), float("nan")), 0)]), "no grey levels"),
    "floats": (Listed([(np.zeros((4, 4, 3)), 0)]), r"float64 of shape \(4, 4, 3\); expected"),
    "four channels": (Listed([(np.zeros((4, 4, 4), np.uint8), 0)]), r"shape \(4, 4, 4\)"),
    "a label of another kind": (Listed([(PIXELS[0], 1.5)]), "has the label 1.5; expected"),
    "a negative label": (Listed([(PIXELS[0], -1)]), "has the label -1, which is none of the"),
    "channels first": ((PIXELS.transpose(0, 3, 1, 2), LABELS), r"shape \(10, 3, 12, 16\)"),
    "float arrays": ((PIXELS / 255, LABELS), "float64 of shape"),
    "fewer labels": ((PIXELS, LABELS[1:]), "10 images and 9 labels"),
    "nothing": ((PIXELS[:0], []), "at least one"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_dataset_of_images_is_refused_with_the_item(kind: str) -> None:
    given, said = UNUSABLE[kind]

    with pytest.raises(DatasetError, match=said):
        featcache.make_dataset(given, name="mine")


@pytest.mark.parametrize("arrays", ["train", "test"])
def test_arrays_beside_objects_are_refused_because_they_are_prepared_differently(
    arrays: str,
) -> None:
    objects = {"train": "test", "test": "train"}[arrays]
    items = Broken([1])  # no item is asked for before

    with pytest.raises(
        UsageError, match=f"python:mine, '{arrays}' came as arrays, and '{objects}' as an object"
    ):
        featcache.make_dataset({arrays: (PIXELS, LABELS), objects: items}, name="mine")


def test_a_dataset_of_two_kinds_of_images_is_refused_however_it_was_made(tmp_path: Path) -> None:
    one = featcache.make_dataset((PIXELS, LABELS), name="mine")
    items = list(zip(PIXELS, LABELS, strict=True))
    other = featcache.make_dataset({"train": items, "test": items}, name="mine")
    both = replace(other, splits={**other.splits, **one.splits})

    with pytest.raises(DatasetError, match=r"has arrays in train, and images .* in test; expected"):
        extract(both, tmp_path)


def test_class_names_that_name_nothing_or_one_class_twice_are_refused() -> None:
    with pytest.raises(UsageError, match="class_names names 1 class, but python:mine has no label"):
        featcache.make_dataset({"train": (PIXELS, None)}, name="mine", class_names=["a"])
    with pytest.raises(UsageError, match="The class 'a' is named twice"):
        featcache.make_dataset((PIXELS, LABELS), name="mine", class_names=["a", "a"])


def test_splits_may_be_called_as_folders_may() -> None:
    images = PIXELS, LABELS

    dataset = featcache.make_dataset({"TEST": images, "Training": images}, name="mine")

    assert list(dataset.splits) == ["train", "test"]
    with pytest.raises(UsageError, match="Of the splits 'train', 'Train', two mean the same one"):
        featcache.make_dataset({"train": images, "Train": images}, name="mine")


def test_an_array_in_place_of_a_dataset_is_answered_with_make_dataset() -> None:
    with pytest.raises(UsageError) as caught:
        featcache.extract(PIXELS)  # type: ignore[arg-type]

    assert str(caught.value).startswith("The dataset is ndarray, but must be a name, a path, or ")
    assert "give featcache.make_dataset((images, labels), name=...)" in str(caught.value)


def test_names_splits_and_options_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    items = Listed([(PIXELS[0], 0)])

    with pytest.raises(UsageError, match=r"^name is 'a/b'"):
        featcache.make_dataset(items, name="a/b")
    with pytest.raises(UsageError, match="The splits are 'test', but must be of train, val, test"):
        featcache.make_dataset({"test": items}, name="mine")
    with pytest.raises(UsageError, match="--exif-orientation apply is for image files"):
        extract(featcache.make_dataset(items, name="a"), tmp_path, exif_orientation="apply")
    with pytest.raises(UsageError, match="Nothing was done"):
        extract("python:mine", tmp_path)
    with pytest.raises(DatasetError, match="'a', which is none of the 1 classes"):
        featcache.make_dataset({"train": [(PIXELS[0], "a")]}, name="mine", class_names=["b"])
