"""torchvision's datasets as ours, opened one way; what is absent is downloaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.dataset_names import TORCHVISION
from featcache.core.paths import expanded, portable
from featcache.core.process_wide import warnings_ignored
from featcache.errors import UnknownNameError
from featcache.images.image_files import FolderImages
from featcache.images.image_names import bytewise
from featcache.images.sources.source import LISTING, DatasetInfo, Files, Source
from featcache.images.sources.torchvision_download import open_or_download
from featcache.images.sources.torchvision_table import TORCHVISION_SETS, TorchvisionSet
from featcache.images.splits import ArrayImages, Dataset, Split

_SHORT_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_SHORT_NAME_OF = {full: short for short, full in _SHORT_NAMES.items()}
_BY_LOWER = {name.lower(): known for name, known in TORCHVISION_SETS.items()}


class TorchvisionSets(Source):
    """`torchvision:NAME` with NAME in any case, and the short names `cifar10` and `cifar100`."""

    names = tuple(_SHORT_NAMES)
    prefix = TORCHVISION

    def slug(self, name: str) -> str:
        """Name the folder of its caches and runs; both spellings find the same cache.

        Raises:
            UnknownNameError: If torchvision has no such dataset.
        """
        known = _set_of(name)
        return _SHORT_NAME_OF.get(known.name, f"torchvision-{known.name.lower()}")

    def listed(self, *, data_dir: str | Path | None) -> list[DatasetInfo]:
        """Describe all of them by the table."""
        return [
            DatasetInfo(
                name=_SHORT_NAME_OF.get(known.name, f"{TORCHVISION}{known.name}"),
                n_classes=known.n_classes,
                splits=tuple(known.splits),
                image_size=known.image_size,
                source="torchvision",
                present=None if data_dir is None else known.is_present(data_dir),
            )
            for known in TORCHVISION_SETS.values()
        ]

    def files(self, name: str, *, data_dir: str | Path) -> Files | None:
        """List what torchvision would read; it takes seconds to import, and reads all."""
        root = os.path.abspath(expanded(data_dir))  # noqa: PTH100 (keeps links)
        paths: list[str] = []
        for place in (Path(root, file) for file in _set_of(name).files):
            inside = [
                os.path.join(folder, file)  # noqa: PTH118 - many times as fast
                for folder, _, files in os.walk(place, followlinks=True)
                for file in files
            ]
            if not inside and not place.is_file():
                return None
            paths += inside or [str(place)]
        return Files(root, tuple(sorted((os.path.relpath(p, root) for p in paths), key=bytewise)))

    def is_here(self, name: str, *, data_dir: str | Path) -> bool:
        """Look for its files in the data folder."""
        return _set_of(name).is_present(data_dir)

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Open all splits, downloading what is absent.

        Images of one size come as one array, grey ones in three equal channels, with the row's
        index as its id. Image files come sorted by the bytes of their paths below `data_dir`, which
        are the ids.

        Raises:
            DatasetError: If files are absent and cannot be downloaded, or are damaged.
        """
        known = _set_of(name)
        root = os.path.abspath(expanded(data_dir))  # noqa: PTH100 (keeps links)
        files = (known.archive, *known.files)
        splits: dict[str, Split] = {}
        class_names: tuple[str, ...] = ()
        for split, arguments in known.splits.items():
            with warnings_ignored():  # torchvision's readers lag behind NumPy and tarfile
                opened = open_or_download(
                    known.name, arguments, root=root, dataset=name, files=files
                )
                images, labels = known.rows(opened)
            splits[split] = _split(split, images, np.asarray(labels, dtype=np.int64), root)
            class_names = class_names or _class_names(opened, known.n_classes)
        return Dataset(name, self.slug(name), class_names, splits)


def _set_of(name: str) -> TorchvisionSet:
    torchvision_name = _SHORT_NAMES.get(name, name.partition(":")[2])
    if (known := _BY_LOWER.get(torchvision_name.lower())) is None:
        raise UnknownNameError(
            "torchvision dataset", torchvision_name, TORCHVISION_SETS, listing=LISTING
        )
    return known


def _split(name: str, images: Any, labels: npt.NDArray[np.int64], root: str) -> Split:
    if isinstance(images, Sequence):
        paths = [Path(os.path.relpath(path, root)).as_posix() for path in images]
        order = sorted(range(len(paths)), key=lambda row: bytewise(paths[row]))
        ids = tuple(paths[row] for row in order)
        return Split(name, FolderImages(root, ids), labels[order], tuple(map(portable, ids)))
    pixels = _rgb(np.asarray(images))
    return Split(name, ArrayImages(pixels), labels, [str(i) for i in range(len(pixels))])


def _rgb(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Bring (N, H, W) grey, (N, 3, H, W) or (N, H, W, 3) uint8 images to (N, H, W, 3)."""
    if pixels.ndim == 3:
        return np.repeat(pixels[..., None], 3, axis=-1)
    channels_last = pixels if pixels.shape[-1] == 3 else pixels.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(channels_last)


def _class_names(source: Any, n_classes: int) -> tuple[str, ...]:
    """Take torchvision's class names, the first of several for one class; else the numbers."""
    names = getattr(source, "classes", None) or getattr(source, "categories", None)
    if names is None:
        return tuple(str(k) for k in range(n_classes))
    return tuple(n if isinstance(n, str) else str(n[0]) for n in names)
