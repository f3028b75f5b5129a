"""Image folders: train/ and test/ with a subfolder per class, or class subfolders alone."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.core.dataset_names import FOLDER
from featcache.core.paths import expanded
from featcache.errors import DatasetError
from featcache.images.image_files import FolderImages
from featcache.images.layout import LAYOUT
from featcache.images.sources.class_folders import read_class_folders
from featcache.images.sources.source import PathSource
from featcache.images.splits import Dataset
from featcache.images.tree import FolderTree


class Folder(PathSource):
    """`folder:PATH`, a folder of image files."""

    prefix = FOLDER
    placeholder = "PATH"

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """Read an image folder without opening an image.

        Links are followed, each folder is read once, and hidden files are passed over.
        `read_class_folders` says what becomes a row.

        Raises:
            DatasetError: If the folder is missing, or not laid out as expected.
        """
        slug = self.slug(name)
        root = os.path.abspath(expanded(self.path_in(name)))  # noqa: PTH100 (keeps links)
        if not os.path.isdir(root):  # noqa: PTH112 (Path.is_dir raises on a forbidden parent)
            what = "is a file" if os.path.lexists(root) else "does not exist"
            raise DatasetError(f"Dataset folder {root!r} {what}. {LAYOUT}.")
        return read_class_folders(
            name,
            slug=slug,
            tree=FolderTree(Path(root)),
            images_at=lambda paths: FolderImages(root, paths),
        )
