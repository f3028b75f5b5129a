"""torchvision's datasets, one line each: splits, where the rows are, classes and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.core.paths import expanded

ImagesAndLabels = tuple[Any, Any]
"""The images, as one array or as a list of paths, and the labels."""


def _columns(images: str, labels: str) -> Callable[[Any], ImagesAndLabels]:
    """Read the rows from two attributes of a torchvision dataset."""
    return lambda source: (getattr(source, images), getattr(source, labels))


def _pairs(samples: str) -> Callable[[Any], ImagesAndLabels]:
    """Read the rows from one attribute that lists (path, label) pairs."""

    def read(source: Any) -> ImagesAndLabels:
        pairs = getattr(source, samples)
        return [path for path, _ in pairs], [label for _, label in pairs]

    return read


def _caltech101(source: Any) -> ImagesAndLabels:
    folder = Path(source.root, "101_ObjectCategories")
    names = zip(source.y, source.index, strict=True)
    paths = [folder / source.categories[k] / f"image_{i:04d}.jpg" for k, i in names]
    return paths, source.y


def _idx_files(name: str) -> tuple[str, ...]:
    kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{name}/raw/{kind}-ubyte" for kind in kinds)


_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAIN_VAL = {"train": {"split": "train"}, "val": {"split": "val"}}
_THREE = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_THREE_VALID = _THREE | {"val": {"split": "valid"}}
_TRAINVAL_TEST = _TRAIN_TEST | {"train": {"split": "trainval"}}
_WHOLE: dict[str, dict[str, object]] = {"train": {}}

_DATA_TARGETS = _columns("data", "targets")
_DATA_LABELS = _columns("data", "labels")
_FILES_LABELS = _columns("_image_files", "_labels")


@dataclass(frozen=True)
class TorchvisionSet:
    """How one of torchvision's datasets is opened and read.

    Attributes:
        name: The class in torchvision.datasets.
        splits: Our split names, each with the constructor's arguments for it.
        rows: Reads images and labels from the opened dataset.
        n_classes: Number of classes.
        image_size: "32x32", or "varies".
        files: What torchvision reads, relative to the data folder.
        archive: What it downloads instead, relative to the data folder; None if just `files`.
    """

    name: str
    splits: Mapping[str, Mapping[str, object]]
    rows: Callable[[Any], ImagesAndLabels]
    n_classes: int
    image_size: str
    files: tuple[str, ...]
    archive: str | None = None

    def is_present(self, data_dir: str | Path) -> bool:
        """Look for the files by name, without opening one."""
        root = expanded(data_dir)
        unpacked = all((root / file).exists() for file in self.files)
        return unpacked or (self.archive is not None and (root / self.archive).exists())


# fmt: off
_TABLE = (
    TorchvisionSet("CIFAR10", _FLAG, _DATA_TARGETS, 10, "32x32",
                   ("cifar-10-batches-py",), "cifar-10-python.tar.gz"),
    TorchvisionSet("CIFAR100", _FLAG, _DATA_TARGETS, 100, "32x32",
                   ("cifar-100-python",), "cifar-100-python.tar.gz"),
    TorchvisionSet("MNIST", _FLAG, _DATA_TARGETS, 10, "28x28", _idx_files("MNIST")),
    TorchvisionSet("FashionMNIST", _FLAG, _DATA_TARGETS, 10, "28x28", _idx_files("FashionMNIST")),
    TorchvisionSet("KMNIST", _FLAG, _DATA_TARGETS, 10, "28x28", _idx_files("KMNIST")),
    TorchvisionSet("USPS", _FLAG, _DATA_TARGETS, 10, "16x16", ("usps.bz2", "usps.t.bz2")),
    TorchvisionSet("SVHN", _TRAIN_TEST, _DATA_LABELS, 10, "32x32",
                   ("train_32x32.mat", "test_32x32.mat")),
    TorchvisionSet("STL10", _TRAIN_TEST, _DATA_LABELS, 10, "96x96",
                   ("stl10_binary",), "stl10_binary.tar.gz"),
    TorchvisionSet("SEMEION", _WHOLE, _DATA_LABELS, 10, "16x16", ("semeion.data",)),
    TorchvisionSet("Flowers102", _THREE, _FILES_LABELS, 102, "varies",
                   ("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat")),
    TorchvisionSet("OxfordIIITPet", _TRAINVAL_TEST, _columns("_images", "_labels"), 37, "varies",
                   ("oxford-iiit-pet/images", "oxford-iiit-pet/annotations")),
    TorchvisionSet("Food101", _TRAIN_TEST, _FILES_LABELS, 101, "varies",
                   ("food-101/images", "food-101/meta"), "food-101.tar.gz"),
    TorchvisionSet("GTSRB", _TRAIN_TEST, _pairs("_samples"), 43, "varies",
                   ("gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test/Images",
                    "gtsrb/GT-final_test.csv")),
    TorchvisionSet("DTD", _THREE, _FILES_LABELS, 47, "varies",
                   ("dtd/dtd",), "dtd/dtd-r1.0.1.tar.gz"),
    TorchvisionSet("FGVCAircraft", _THREE, _FILES_LABELS, 100, "varies",
                   ("fgvc-aircraft-2013b",), "fgvc-aircraft-2013b.tar.gz"),
    TorchvisionSet("Imagenette", _TRAIN_VAL, _pairs("_samples"), 10, "varies",
                   ("imagenette2",), "imagenette2.tgz"),
    TorchvisionSet("Country211", _THREE_VALID, _pairs("samples"), 211, "varies",
                   ("country211",), "country211.tgz"),
    TorchvisionSet("RenderedSST2", _THREE, _pairs("_samples"), 2, "448x448",
                   ("rendered-sst2",), "rendered-sst2.tgz"),
    TorchvisionSet("EuroSAT", _WHOLE, _pairs("samples"), 10, "64x64",
                   ("eurosat/2750",), "eurosat/EuroSAT.zip"),
    TorchvisionSet("Caltech101", _WHOLE, _caltech101, 101, "varies",
                   ("caltech101/101_ObjectCategories",), "caltech101/caltech-101.zip"),
    TorchvisionSet("SUN397", _WHOLE, _FILES_LABELS, 397, "varies", ("SUN397",), "SUN397.tar.gz"),
)
# fmt: on
TORCHVISION_SETS = {table_row.name: table_row for table_row in _TABLE}
