"""Every kind of cache that shares can make, of one small set of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import featcache
from tests.conftest import SMALL_BACKBONE, save_image
from tests.images.containers import CONTAINERS, Files, files_below

BATCH_SIZE = 4


@dataclass(frozen=True)
class Kind:
    """A kind of cache.

    Attributes:
        name: For the report.
        dataset: Its images.
        options: How they are extracted.
    """

    name: str
    dataset: str
    options: dict[str, Any]

    def spec(self, cache_dir: Path) -> featcache.ExtractSpec:
        """What is asked of `extract` and `extract_share`."""
        return featcache.ExtractSpec(
            dataset=self.dataset, cache_dir=str(cache_dir), n_workers=0, **self.options
        )

    def whole(self, cache_dir: Path) -> featcache.ExtractResult:
        """The cache that one process makes."""
        [result] = featcache.extract_all([self.spec(cache_dir)])
        return result


def image_files(folder: Path, *, n_train: int = 13, n_test: int = 5) -> Files:
    """Images of two sizes in two classes; one is broken, and one has a longer name than others."""
    for i in range(n_train + n_test):
        split = "train" if i < n_train else "test"
        name = f"{i}.png" if i != 2 else "a-name-that-is-longer-than-all-others.png"
        save_image(folder / split / ("cat", "dog")[i % 2] / name, i, size=(20, 16 + i % 2))
    (folder / "train/dog/broken.jpg").write_bytes(b"\xff\xd8 no more")
    return files_below(folder)


def kinds(folder: Path, **counts: int) -> Iterator[Kind]:
    """Write the images below a folder in each container, and say what is made of them."""
    files = image_files(folder / "images", **counts)
    pixels = {"backbone": "pixels", "image_size": 8}
    network = {
        "backbone": SMALL_BACKBONE,
        "weights": "random",
        "image_size": 32,
        "batch_size": BATCH_SIZE,
        "compile": "never",
    }
    images = f"folder:{folder}/images"
    yield Kind("pixels", images, pixels)
    yield Kind("a network", images, network)
    adapted = {**network, "bn": "adapted", "store_dtype": "float16"}
    yield Kind("adapted BatchNorm, float16", images, adapted)
    yield Kind("views", images, {**network, "views": 2, "augment": ("flip", "crop")})
    yield Kind("without labels", f"images:{folder}/images/train", pixels)
    yield Kind("arrays", "digits", {"backbone": "pixels", "limit": len(files) // 2})
    for name in ("tar", "Parquet", "list"):
        place = folder / name
        place.mkdir()
        yield Kind(name, CONTAINERS[name](files, place), pixels)
