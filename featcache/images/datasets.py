"""Datasets by name: "cifar10", "cifar100", "digits", "folder:PATH", "torchvision:NAME"."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from featcache.config import IMPORTED
from featcache.core.arguments import imported_slug
from featcache.core.paths import expanded, resolved
from featcache.errors import DatasetError, UnknownNameError, UsageError
from featcache.images.image_files import FolderImages
from featcache.images.sources.digits import load_digits
from featcache.images.sources.folder import load_folder
from featcache.images.sources.torchvision_sets import (
    TORCHVISION_SETS,
    TorchvisionSet,
    load_torchvision,
)
from featcache.images.splits import (
    ArrayImages,
    Dataset,
    FileImages,
    Split,
    UnreadableImageError,
)

__all__ = [
    "ArrayImages",
    "Dataset",
    "DatasetInfo",
    "FileImages",
    "FolderImages",
    "Split",
    "UnreadableImageError",
    "dataset_slug",
    "list_datasets",
    "load_dataset",
]

_SHORT_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_LISTING = "featcache datasets"


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What can be said of a dataset without opening it.

    Attributes:
        name: What `load_dataset` takes.
        n_classes: Number of classes; None if only the files tell.
        splits: Split names; "..." if only the files tell.
        image_size: "32x32", or "varies".
        source: How it is obtained.
        present: Whether its files seem to be there; None if no data folder was given to look in.
    """

    name: str
    n_classes: int | None
    splits: tuple[str, ...]
    image_size: str
    source: str
    present: bool | None


def load_dataset(name: str, *, data_dir: str | Path) -> Dataset:
    """Open a dataset by name; "train" is its first split.

    Example:
        >>> digits = load_dataset("digits", data_dir="data")
        >>> len(digits.splits["train"]), digits.splits["test"].ids[0]
        (1437, '1437')

    Args:
        name: "cifar10", "cifar100", "digits", "folder:PATH", or "torchvision:NAME" in any case.
        data_dir: Folder of downloaded datasets; what is absent is downloaded into it.

    Raises:
        UnknownNameError: If there is no such dataset.
        DatasetError: If its files are missing, damaged, empty or not laid out as they should be.
    """
    slug = dataset_slug(name)
    if name.startswith(f"{IMPORTED}:"):
        raise UsageError(f"{name} was imported as features, so it has no images. Nothing was done.")
    if name == "digits":
        return _validated(load_digits(name))
    if name.startswith("folder:"):
        return _validated(load_folder(name.removeprefix("folder:"), name=name, slug=slug))
    spec = _torchvision_spec(name)
    return _validated(load_torchvision(spec, data_dir=data_dir, name=name, slug=slug))


def dataset_slug(name: str) -> str:
    """Name the folder of a dataset's caches and runs, without opening the dataset.

    Raises:
        UnknownNameError: If there is no such dataset.
    """
    kind, _, rest = name.partition(":")
    if kind == "folder":
        if not rest:
            raise UsageError("Dataset 'folder:' lacks its path. Write it as: folder:PATH")
        return _folder_slug(rest)
    if kind == IMPORTED:
        return imported_slug(rest)
    if name == "digits":
        return name
    spec = _torchvision_spec(name)
    # One slug for both spellings, so that both find the same cache.
    is_short = spec.name in _SHORT_NAMES.values()
    return spec.name.lower() if is_short else f"torchvision-{spec.name.lower()}"


def list_datasets(*, data_dir: str | Path | None = None) -> list[DatasetInfo]:
    """List every name that `load_dataset` takes, without opening or importing a dataset.

    Args:
        data_dir: Where to look for files by name, to fill in `present`.
    """
    short = {full: name for name, full in _SHORT_NAMES.items()}
    infos = [
        DatasetInfo(
            name=short.get(spec.name, f"torchvision:{spec.name}"),
            n_classes=spec.n_classes,
            splits=tuple(spec.splits),
            image_size=spec.image_size,
            source="torchvision",
            present=None if data_dir is None else spec.is_present(data_dir),
        )
        for spec in TORCHVISION_SETS.values()
    ]
    digits = DatasetInfo(
        name="digits",
        n_classes=10,
        splits=("train", "test"),
        image_size="8x8",
        source="scikit-learn",
        present=None if data_dir is None else importlib.util.find_spec("sklearn") is not None,
    )
    folder = DatasetInfo(
        name="folder:PATH",
        n_classes=None,
        splits=("train", "..."),
        image_size="varies",
        source="your images",
        present=None,
    )
    n_short = len(_SHORT_NAMES)
    return [*infos[:n_short], digits, folder, *infos[n_short:]]


def _torchvision_spec(name: str) -> TorchvisionSet:
    kind, _, rest = name.partition(":")
    torchvision_name = _SHORT_NAMES.get(name) or (rest if kind == "torchvision" else None)
    if torchvision_name is None:
        raise _unknown(name)
    by_lower = {known.lower(): spec for known, spec in TORCHVISION_SETS.items()}
    if (spec := by_lower.get(torchvision_name.lower())) is None:
        raise UnknownNameError("torchvision dataset", rest, TORCHVISION_SETS, listing=_LISTING)
    return spec


def _unknown(name: str) -> UsageError:
    known = [info.name for info in list_datasets()]
    if os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises for a name too long
        return UsageError(f"Dataset {name!r} is a folder here. Write it as: folder:{name}")
    full = [k for k in known if k.partition(":")[2].lower() == name.lower()]
    listing = f"{_LISTING} (it is {full[0]!r} there)" if full else _LISTING
    return UnknownNameError("dataset", name, known, listing=listing)


def _folder_slug(path: str) -> str:
    """Name a cache folder after an image folder: ASCII, no slash, at most 71 characters."""
    last = resolved(expanded(path)).name
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", last).strip("._-")[:64]
    return f"folder-{safe or 'images'}"


def _validated(dataset: Dataset) -> Dataset:
    """Check what every reader promises: rows in every split, labels in range, unique ids."""
    n_classes = len(dataset.class_names)
    for split in dataset.splits.values():
        where = f"Split {split.name!r} of dataset {dataset.name!r}"
        if not len(split) == len(split.images) == len(split.ids) or not len(split):
            raise DatasetError(
                f"{where} has {len(split.images)} images, {len(split)} labels and "
                f"{len(split.ids)} ids; expected as many of each and at least 1. Nothing was "
                "extracted. Delete the dataset's files and run the same command again."
            )
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= n_classes:
            raise DatasetError(
                f"{where} has labels {low}..{high}, expected 0..{n_classes - 1}. Nothing was "
                "extracted. Delete the dataset's files and run the same command again."
            )
        if len(set(split.ids)) < len(split):
            raise DatasetError(
                f"{where} has {len(split) - len(set(split.ids))} ids twice. Nothing was extracted. "
                "Give each image a name of its own."
            )
    return dataset
