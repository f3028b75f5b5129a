"""Features that were imported from a foreign file: they have a name, but no images."""

from __future__ import annotations

from pathlib import Path

from featcache.core.dataset_names import IMPORTED_PREFIX, imported_slug
from featcache.errors import UsageError
from featcache.images.sources.source import DatasetInfo, Source
from featcache.images.splits import Dataset


class Imported(Source):
    """`imported:NAME`, which names a cache and nothing that can be opened."""

    prefix = IMPORTED_PREFIX

    def slug(self, name: str) -> str:
        """Take NAME as it is.

        Raises:
            UsageError: If it cannot be the name of a folder.
        """
        return imported_slug(name.partition(":")[2])

    def listed(self, *, data_dir: str | Path | None) -> list[DatasetInfo]:
        """Describe none: there is nothing to extract from."""
        return []

    def is_here(self, name: str, *, data_dir: str | Path) -> bool:
        """Tell that a name alone brings back no images."""
        return False

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"{IMPORTED_PREFIX}{self.slug(name)} was imported as features, so it has no images. "
            f"Nothing was done."
        )
