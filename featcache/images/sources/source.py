"""What every kind of dataset has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from featcache.images.splits import Dataset

LISTING = "featcache datasets"
"""The command that lists every dataset."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What can be said of a dataset without opening it.

    Attributes:
        name: What `load_dataset` takes.
        n_classes: Number of classes; None if only the files tell.
        splits: Split names; "..." if only the files tell.
        image_size: "32x32", or "varies".
        source: How it is obtained.
        present: Whether its files seem to exist; None if no data folder was given to look in.
    """

    name: str
    n_classes: int | None
    splits: tuple[str, ...]
    image_size: str
    source: str
    present: bool | None


class Files(NamedTuple):
    """Files below one folder.

    Attributes:
        root: Absolute path of the folder.
        paths: Relative to it, in a fixed order.
    """

    root: str
    paths: tuple[str, ...]


class Source(ABC):
    """One kind of dataset: which names belong to it, and how a dataset of it is opened.

    To add a kind, write a subclass in a file here, and name it in `SOURCES` (images/datasets.py).
    A prefix is declared in core/dataset_names.py. Import the kind's library inside `load`, because
    all kinds are listed where none of their libraries is installed.
    """

    names: tuple[str, ...] = ()
    """Names of one word, e.g. "digits"."""
    prefix: str | None = None
    """How all other names start, e.g. "folder:"; None if there are no others."""

    def claims(self, name: str) -> bool:
        """Tell whether a name belongs to this kind, without looking whether its dataset exists."""
        return name in self.names or f"{name.partition(':')[0]}:" == self.prefix

    @abstractmethod
    def slug(self, name: str) -> str:
        """Name the folder of the dataset's caches and runs, without opening the dataset.

        Raises:
            UsageError: If no dataset can have this name.
        """

    @abstractmethod
    def listed(self, *, data_dir: str | Path | None) -> list[DatasetInfo]:
        """Describe the datasets of this kind, without opening or importing one.

        Args:
            data_dir: Where to look for files by name, to fill in `present`; None does not look.
        """

    @abstractmethod
    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Open a dataset; "train" is its first split.

        Args:
            name: One that `claims` takes.
            data_dir: Folder of downloaded datasets; what is absent is downloaded into it.

        Raises:
            UsageError: If no dataset can have this name.
            DatasetError: If it cannot be opened.
        """

    def files(self, name: str, *, data_dir: str | Path) -> Files | None:
        """List the files that decide what `load` gives; None if it opens quickly without reading.

        None also if some are absent, so that `load` would download or unpack them.
        """
        return None

    def path_in(self, name: str) -> str | None:
        """Give the path that is part of a name; None if the name alone says which dataset it is.

        Where there is a path, the same name means other images from another working directory.
        """
        return None
