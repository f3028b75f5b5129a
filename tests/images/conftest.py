"""Tiny stand-ins for torchvision's downloads, in the layouts that its readers expect."""

import bz2
import csv
import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

GREY = np.arange(2 * 28 * 28, dtype=np.uint32).reshape(2, 28, 28).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, 2 * 3 * 96 * 96, dtype=np.uint8)
MARK = (200, 10, 60)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), MARK).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def cifar(root: Path, patch: pytest.MonkeyPatch, name: str = "CIFAR10") -> None:
    """Write batches of 2 images each; pixel (row i, channel c) of batch b is 10 b + c."""
    source = getattr(datasets, name)
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    key = "labels" if name == "CIFAR10" else "fine_labels"
    for attribute, first in (("train_list", 0), ("test_list", 20)):
        table = []
        for b, (file, _) in enumerate(getattr(source, attribute)):
            planes = np.repeat(np.arange(3, dtype=np.uint8) + 10 * b + first, 1024)
            content = {"data": np.stack([planes, planes]), key: [b, 9]}
            (folder / file).write_bytes(pickle.dumps(content))
            table.append([file, md5(folder / file)])
        patch.setattr(source, attribute, table)
    meta = folder / source.meta["filename"]
    n_classes = 10 if name == "CIFAR10" else 100
    meta.write_bytes(pickle.dumps({source.meta["key"]: [f"kind {k}" for k in range(n_classes)]}))
    patch.setattr(source, "meta", source.meta | {"md5": md5(meta)})


def cifar100(root: Path, patch: pytest.MonkeyPatch) -> None:
    cifar(root, patch, "CIFAR100")


def idx(name: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def build(root: Path, patch: pytest.MonkeyPatch) -> None:
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            header = struct.pack(">BBBBIII", 0, 0, 8, 3, *GREY.shape)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(header + GREY.tobytes())
            header = struct.pack(">BBBBI", 0, 0, 8, 1, 2)
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes([3, 9]))

    return build


def usps(root: Path, patch: pytest.MonkeyPatch) -> None:
    pixels = " ".join(f"{i + 1}:{i % 3 - 1}" for i in range(256))
    for file in ("usps.bz2", "usps.t.bz2"):
        (root / file).write_bytes(bz2.compress(f"1 {pixels}\n10 {pixels}".encode()))


def svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    table = dict(datasets.SVHN.split_list)
    for split in ("train", "test"):
        url, file, _ = table[split]
        pixels = NOISE[: 2 * 3 * 32 * 32].reshape(32, 32, 3, 2)
        savemat(root / file, {"X": pixels, "y": np.array([[10], [4]], dtype=np.uint8)})
        table[split] = [url, file, md5(root / file)]
    patch.setattr(datasets.SVHN, "split_list", table)


def stl10(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(f"kind {k}" for k in range(10)))
    for attribute in ("train_list", "test_list"):
        table = []
        for file, checksum in getattr(datasets.STL10, attribute):
            if file != "unlabeled_X.bin":
                content = bytes([1, 10]) if "_y" in file else NOISE.tobytes()
                (folder / file).write_bytes(content)
                checksum = md5(folder / file)
            table.append([file, checksum])
        patch.setattr(datasets.STL10, attribute, table)
    unlabelled = [row for row in datasets.STL10.train_list if row[0] != "unlabeled_X.bin"]
    patch.setattr(datasets.STL10, "train_list", unlabelled)


def semeion(root: Path, patch: pytest.MonkeyPatch) -> None:
    rows = [[k % 2] * 256 + [int(k == label) for label in range(10)] for k in (0, 9)]
    text(root / "semeion.data", "\n".join(" ".join(map(str, row)) for row in rows))
    patch.setattr(datasets.SEMEION, "md5_checksum", md5(root / "semeion.data"))


def flowers(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "flowers-102"
    for i in range(1, 7):
        image(folder / f"jpg/image_{i:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 102, 3, 4, 5, 6]])})
    ids = {"trnid": [[2, 1]], "valid": [[3, 4]], "tstid": [[5, 6]]}
    savemat(folder / "setid.mat", {key: np.array(value) for key, value in ids.items()})
    table = dict(datasets.Flowers102._file_dict)
    for key, file in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        table[key] = (file, md5(folder / file))
    patch.setattr(datasets.Flowers102, "_file_dict", table)


def pets(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "oxford-iiit-pet"
    for file in ("great_pyrenees_1", "abyssinian_2"):
        image(folder / f"images/{file}.jpg")
    for split in ("trainval", "test"):
        text(folder / f"annotations/{split}.txt", "great_pyrenees_1 2 2 1\nabyssinian_2 1 1 1\n")


def food(root: Path, patch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        text(root / f"food-101/meta/{split}.json", json.dumps({"pie": ["pie/1"], "egg": ["egg/2"]}))
    for file in ("pie/1", "egg/2"):
        image(root / f"food-101/images/{file}.jpg")


def gtsrb(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "gtsrb"
    for file in ("Training/00000/a", "Training/00001/b", "Final_Test/Images/c"):
        image(folder / f"GTSRB/{file}.ppm")
    with (folder / "GT-final_test.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["Filename", "ClassId"], ["c.ppm", "42"]])


def dtd(root: Path, patch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val", "test"):
        text(root / f"dtd/dtd/labels/{split}1.txt", "lined/a.jpg\ndotted/b.jpg\n")
    for file in ("lined/a", "dotted/b"):
        image(root / f"dtd/dtd/images/{file}.jpg")


def aircraft(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "fgvc-aircraft-2013b/data"
    text(folder / "variants.txt", "A380\n747-100\n")
    for split in ("train", "val", "test"):
        text(folder / f"images_variant_{split}.txt", "0002 747-100\n0001 A380\n")
    for file in ("0001", "0002"):
        image(folder / f"images/{file}.jpg")


def imagenette(root: Path, patch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val"):
        image(root / f"imagenette2/{split}/n01440764/a.jpeg")
        image(root / f"imagenette2/{split}/n02102040/b.jpeg")


def by_class(*folders: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def build(root: Path, patch: pytest.MonkeyPatch) -> None:
        for folder in folders:
            image(root / folder / "image_0001.jpg")
            image(root / folder / "image_0001.png")

    return build


def caltech(root: Path, patch: pytest.MonkeyPatch) -> None:
    for kind in ("BACKGROUND_Google", "ant", "yin_yang"):
        image(root / f"caltech101/101_ObjectCategories/{kind}/image_0001.jpg")


def sun(root: Path, patch: pytest.MonkeyPatch) -> None:
    text(root / "SUN397/ClassName.txt", "/a/abbey\n/y/yard/inside\n")
    for file in ("y/yard/inside/sun_b", "a/abbey/sun_a"):
        image(root / f"SUN397/{file}.jpg")


BUILDERS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "CIFAR10": cifar,
    "CIFAR100": cifar100,
    "MNIST": idx("MNIST"),
    "FashionMNIST": idx("FashionMNIST"),
    "KMNIST": idx("KMNIST"),
    "USPS": usps,
    "SVHN": svhn,
    "STL10": stl10,
    "SEMEION": semeion,
    "Flowers102": flowers,
    "OxfordIIITPet": pets,
    "Food101": food,
    "GTSRB": gtsrb,
    "DTD": dtd,
    "FGVCAircraft": aircraft,
    "Imagenette": imagenette,
    "Country211": by_class(
        *(f"country211/{s}/{c}" for s in ("train", "valid", "test") for c in "AB")
    ),
    "RenderedSST2": by_class(
        *(
            f"rendered-sst2/{s}/{c}"
            for s in ("train", "valid", "test")
            for c in ("negative", "positive")
        )
    ),
    "EuroSAT": by_class("eurosat/2750/Forest", "eurosat/2750/River"),
    "Caltech101": caltech,
    "SUN397": sun,
}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Put the tiny stand-in for one of torchvision's datasets into a folder."""

    def place_named(name: str, root: Path) -> None:
        root.mkdir(exist_ok=True)
        BUILDERS[name](root, monkeypatch)

    return place_named
