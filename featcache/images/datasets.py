"""Datasets by name: "cifar10", "digits", "folder:PATH", "list:FILE", "torchvision:NAME", ...

Each kind of name is a `Source` in images/sources.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from featcache.core.dataset_names import FOLDER, name_of_path
from featcache.errors import DatasetError, UnknownNameError, UsageError, counted
from featcache.images.image_files import FolderImages
from featcache.images.image_names import is_image_name
from featcache.images.rules import ImageRules
from featcache.images.sources.archive_files import TarShards, ZipFile
from featcache.images.sources.digits import Digits
from featcache.images.sources.folder import Folder
from featcache.images.sources.given import Given
from featcache.images.sources.imported import Imported
from featcache.images.sources.list_file import ListFile
from featcache.images.sources.parquet import Parquet
from featcache.images.sources.source import LISTING, DatasetInfo, Source
from featcache.images.sources.torchvision_sets import TorchvisionSets
from featcache.images.sources.unlabelled_folder import UnlabelledFolder
from featcache.images.splits import ArrayImages, Dataset, Split
from featcache.images.stat_index import KnownFiles

SOURCES: tuple[Source, ...] = (
    Folder(),
    UnlabelledFolder(),
    ListFile(),
    Parquet(),
    TarShards(),
    ZipFile(),
    TorchvisionSets(),
    Digits(),
    Given(),
    Imported(),
)
"""Every kind of dataset. No two claim the same name."""


def load_dataset(name: str | Dataset, *, data_dir: str | Path) -> Dataset:
    """Open a dataset by name; "train" is its first split. One that was made is taken as it is.

    Example:
        >>> digits = load_dataset("digits", data_dir="data")
        >>> len(digits.splits["train"]), digits.splits["test"].ids[0]
        (1437, '1437')

    Args:
        name: "cifar10", "cifar100", "digits", "torchvision:NAME" in any case, or the user's own
            images: "folder:PATH", "list:FILE", "parquet:FILES", "tar:SHARDS", "zip:FILE".
        data_dir: Folder of downloaded datasets; what is absent is downloaded into it.

    Raises:
        UnknownNameError: If there is no such dataset.
        DatasetError: If its files are missing, damaged, empty or not laid out as they should be.
    """
    made = name if isinstance(name, Dataset) else _source_of(name).load(name, data_dir=data_dir)
    return _validated(made)


def dataset_slug(name: str) -> str:
    """Name the folder of a dataset's caches and runs, without opening the dataset.

    Raises:
        UnknownNameError: If there is no such dataset.
    """
    return _source_of(name).slug(name)


def files_digest(
    name: str, *, data_dir: str | Path, rules: ImageRules, known: KnownFiles
) -> str | None:
    """Hash the files that decide a dataset, without opening it; hex.

    Args:
        name: As `load_dataset` takes it.
        data_dir: Folder of downloaded datasets.
        rules: How image files will be read, so that their headers need not be read again.
        known: Files that it knows are not read.

    Returns:
        None for a dataset that opens quickly, so that its own digest tells it, or whose files are
        not all here.
    """
    files = _source_of(name).files(name, data_dir=data_dir)
    if files is None:
        return None
    images = tuple(path for path in files.paths if is_image_name(path))
    looks = FolderImages(files.root, images, rules=rules).looks(known)
    digests: dict[str, bytes | None] = {
        p: look.digest for p, look in zip(images, looks, strict=True)
    }
    for path in files.paths:
        if path not in digests:
            digests[path] = known.sha256_below(files.root, path)
    sha = hashlib.sha256()
    for path, digest in sorted(digests.items()):
        sha.update(repr((path, digest)).encode(errors="surrogateescape"))
    return sha.hexdigest()


def path_in(name: str) -> str | None:
    """Give the path that is part of a dataset's name; None if the name holds none, or is unknown.

    Where there is a path, the same name means other images from another working directory.
    """
    return next((source.path_in(name) for source in SOURCES if source.claims(name)), None)


def at_path(name: str, path: Path) -> str:
    """Name the same dataset at another path."""
    return _source_of(name).at(name, path)


def is_there(name: str) -> bool:
    """Tell whether something lies at the path in a dataset's name; True where it holds none."""
    return _source_of(name).is_there(name)


def is_here(name: str, *, data_dir: str | Path) -> bool:
    """Tell whether the files of a dataset seem to be here, so that opening it downloads nothing."""
    return _source_of(name).is_here(name, data_dir=data_dir)


def list_datasets(*, data_dir: str | Path | None = None) -> list[DatasetInfo]:
    """List every name that `load_dataset` takes, without opening or importing a dataset.

    Names of one word come first.

    Args:
        data_dir: Where to look for files by name, to fill in `present`.
    """
    infos = [info for source in SOURCES for info in source.listed(data_dir=data_dir)]
    return sorted(infos, key=lambda info: ":" in info.name)


def _source_of(name: str) -> Source:
    for source in SOURCES:
        if source.claims(name):
            return source
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    known = [info.name for info in list_datasets()]
    if meant := name_of_path(name):
        what = "folder" if meant.startswith(FOLDER) else "file"
        return UsageError(f"Dataset {name!r} is a {what} here. Write it as: {shlex.quote(meant)}")
    full = [k for k in known if k.partition(":")[2].lower() == name.lower()]
    listing = f"{LISTING} (it is {full[0]!r} there)" if full else LISTING
    return UnknownNameError("dataset", name, known, listing=listing)


def _validated(dataset: Dataset) -> Dataset:
    """Check what every source promises: one kind of images, rows, labels in range, unique ids."""
    _check_kind(dataset)
    for split in dataset.splits.values():
        where = f"Split {split.name!r} of dataset {dataset.name!r}"
        n_labels = len(split) if split.labels is None else len(split.labels)
        if not n_labels == len(split.images) == len(split.ids) or not len(split):
            raise DatasetError(
                f"{where} has {counted(len(split.images), 'image')}, "
                f"{counted(n_labels, 'label')} and {counted(len(split.ids), 'id')}; expected as "
                f"many of each and at least 1. Nothing was extracted. Delete the dataset's files "
                f"and run the same command again."
            )
        _check_labels(split, where, n_classes=len(dataset.class_names))
        if len(set(split.ids)) < len(split):
            raise DatasetError(
                f"{where} has {counted(len(split) - len(set(split.ids)), 'id')} twice. Nothing was "
                f"extracted. Give each image a name of its own."
            )
    return dataset


def _check_kind(dataset: Dataset) -> None:
    in_memory = [n for n, s in dataset.splits.items() if isinstance(s.images, ArrayImages)]
    others = [name for name in dataset.splits if name not in in_memory]
    if in_memory and others:
        raise DatasetError(
            f"Dataset {dataset.name!r} has arrays in {', '.join(in_memory)}, and images that are "
            f"decoded one at a time in {', '.join(others)}; expected one kind in all splits, so "
            f"that all are prepared alike. Nothing was extracted. Make a dataset of each kind."
        )


def _check_labels(split: Split, where: str, *, n_classes: int) -> None:
    if split.labels is None:
        if n_classes:
            raise DatasetError(
                f"{where} has no labels, but the dataset names {counted(n_classes, 'class')}. "
                f"Nothing was extracted. Give labels, or no class names."
            )
        return
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= n_classes:
        raise DatasetError(
            f"{where} has labels {low}..{high}, expected 0..{n_classes - 1}. Nothing was "
            "extracted. Delete the dataset's files and run the same command again."
        )
