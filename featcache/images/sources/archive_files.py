"""Zip and tar archives of images, read without unpacking them."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.core.dataset_names import TAR, ZIP, columns_in
from featcache.core.paths import expanded
from featcache.errors import DatasetError
from featcache.images.archives.member import require_no_duplicates
from featcache.images.archives.tar_members import list_tar
from featcache.images.archives.zip_members import list_zip
from featcache.images.packed_images import Pack
from featcache.images.sources.archive_layouts import read_archives
from featcache.images.sources.shards import expand_shards, shards_exist
from featcache.images.sources.source import FileSource
from featcache.images.splits import Dataset


class ZipFile(FileSource):
    """`zip:FILE`, a zip archive."""

    prefix = ZIP
    placeholder = "FILE"
    has_columns = True

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Read the directory of a zip archive, as `read_archives` takes it.

        Raises:
            DatasetError: If the archive is damaged, unsafe, or not laid out as expected.
        """
        slug = self.slug(name)
        path = os.path.abspath(expanded(self.path_in(name)))  # noqa: PTH100 (keeps links)
        if not os.path.lexists(path):
            raise DatasetError(f"Archive {path!r} does not exist. Nothing was extracted.")
        archive = Pack.at(path)
        return read_archives(
            name,
            slug=slug,
            title=path,
            archives=(archive,),
            members=list_zip(path),
            asked=columns_in(name),
        )


class TarShards(FileSource):
    """`tar:SHARDS`, one tar archive or several: `tar:pets-{000..009}.tar`, `tar:shards/*.tar`."""

    prefix = TAR
    placeholder = "SHARDS"
    has_columns = True

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Read the headers of tar archives, as `read_archives` takes them.

        Raises:
            DatasetError: If an archive is damaged, unsafe, or not laid out as expected.
        """
        slug = self.slug(name)
        path = os.path.abspath(expanded(self.path_in(name)))  # noqa: PTH100 (keeps links)
        shards = expand_shards(path)
        archives = tuple(map(Pack.at, shards))
        members = [m for i, shard in enumerate(shards) for m in list_tar(shard, number=i)]
        require_no_duplicates(shards, members)
        return read_archives(
            name,
            slug=slug,
            title=path,
            archives=archives,
            members=members,
            asked=columns_in(name),
        )

    def is_there(self, name: str) -> bool:
        """Tell whether some archive is at the path."""
        return shards_exist(os.fspath(expanded(self.path_in(name))))
