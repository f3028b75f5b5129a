"""What every kind of dataset has to offer."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from featcache.core.dataset_names import without_columns
from featcache.core.paths import expanded, resolved
from featcache.errors import UsageError
from featcache.images.splits import Dataset

_SAYS_NOTHING = ("", "metadata", "train", "test", "val", "images", "data", "labels")

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

    To add a kind:

    1. Write a subclass in a file here. Import the kind's library inside `load`, because all kinds
       are listed where none of their libraries is installed.
    2. Add it to `SOURCES` in images/datasets.py.
    3. If its names have a prefix, declare the prefix in core/dataset_names.py: in `KINDS`, or in
       `OF_PATHS` if a path follows it. `_COLUMNS_OF` and `_KIND_BY_ENDING` there are for lists and
       tables with named columns, and for files that are known by their ending.
    4. Name it in the help text of `ExtractSpec.dataset` (config/specs.py).
    5. Where its name alone cannot open it, as with images from Python, say so in `is_here`, and in
       store/extract_command.py, which else writes a command with the name.
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

    def at(self, name: str, path: Path) -> str:
        """Name the same dataset, with another path in its name."""
        return name

    def is_there(self, name: str) -> bool:
        """Tell whether something lies at the path in a name."""
        return True

    def is_here(self, name: str, *, data_dir: str | Path) -> bool:
        """Tell whether `load` would find the files, by their names, so that it downloads none."""
        return self.is_there(name)


class PathSource(Source):
    """A kind whose names are `kind:PATH`, or `kind:PATH#...` where more has to be said."""

    placeholder = "PATH"
    """What stands for the path in the listing."""
    splits: tuple[str, ...] = ("train", "...")
    """Which splits there are, for the listing."""

    def slug(self, name: str) -> str:
        """Name a cache folder after the path: ASCII, no slash, at most 73 characters.

        Raises:
            UsageError: If the path is missing.
        """
        path = self.path_in(name)
        if not path:
            shown = f"{self.prefix}{self.placeholder}"
            raise UsageError(f"Dataset '{self.prefix}' lacks its path. Write it as: {shown}")
        safe = re.sub(r"[^A-Za-z0-9.-]+", "_", self.title(path)).strip("._-")[:64]
        return f"{str(self.prefix).removesuffix(':')}-{safe or 'images'}"

    def title(self, path: str) -> str:
        """Give the part of a path that names the dataset: its last."""
        return resolved(expanded(path)).name

    def listed(self, *, data_dir: str | Path | None) -> list[DatasetInfo]:
        """Describe all datasets of the kind in one entry; only their files tell more."""
        return [
            DatasetInfo(
                name=f"{self.prefix}{self.placeholder}",
                n_classes=None,
                splits=self.splits,
                image_size="varies",
                source="your images",
                present=None,
            )
        ]

    def path_in(self, name: str) -> str:
        """Give PATH as it was typed."""
        return name.partition(":")[2]

    def at(self, name: str, path: Path) -> str:
        """Name the dataset of the same kind at another path."""
        kind, _, rest = name.partition(":")
        return f"{kind}:{path}{rest.removeprefix(self.path_in(name))}"

    def is_there(self, name: str) -> bool:
        """Tell whether a folder is at the path."""
        return os.path.isdir(expanded(self.path_in(name)))  # noqa: PTH112 - Path.is_dir raises


class FileSource(PathSource):
    """A kind whose names are `kind:FILE`, perhaps with columns behind: `kind:FILE#label=breed`."""

    has_columns = False
    """Whether the names of columns may be said."""

    def path_in(self, name: str) -> str:
        """Give FILE as it was typed."""
        path = super().path_in(name)
        return without_columns(path) if self.has_columns else path

    def title(self, path: str) -> str:
        """Give the name of the file without its ending, or of its folder if that says more."""
        whole = expanded(path)
        stem = re.sub(r"\{[^{}]*\}|[*?\[\]]", "", whole.name)
        stem = re.sub(r"\.(zip|tar|csv|tsv|jsonl|ndjson|parquet)\Z", "", stem, flags=re.IGNORECASE)
        stem = stem.strip("._- ")
        return resolved(whole).parent.name if stem.lower() in _SAYS_NOTHING else stem

    def is_there(self, name: str) -> bool:
        """Tell whether a file is at the path."""
        return os.path.exists(expanded(self.path_in(name)))  # noqa: PTH110 - Path.exists raises
