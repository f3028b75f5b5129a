"""Folders of images without classes, of any depth."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.core.dataset_names import IMAGES
from featcache.core.paths import expanded, portable
from featcache.errors import DatasetError
from featcache.images.image_files import FolderImages
from featcache.images.image_names import bytewise
from featcache.images.sources.class_folders import left_out
from featcache.images.sources.source import PathSource
from featcache.images.splits import UNLABELLED, Dataset, Split
from featcache.images.tree import FolderTree


class UnlabelledFolder(PathSource):
    """`images:PATH`, all image files below a folder, as one split without labels."""

    prefix = IMAGES
    placeholder = "PATH"
    splits = (UNLABELLED,)

    def load(self, name: str, *, data_dir: str | Path) -> Dataset:
        """List a folder without opening an image.

        Rows are sorted by the bytes of their paths, which are the ids. Links are followed, each
        folder is read once, and hidden files are passed over.

        Raises:
            DatasetError: If the folder is missing, cannot be listed, or holds no image.
        """
        slug = self.slug(name)
        root = os.path.abspath(expanded(self.path_in(name)))  # noqa: PTH100 (keeps links)
        if not os.path.isdir(root):  # noqa: PTH112 (Path.is_dir raises on a forbidden parent)
            what = "is a file" if os.path.lexists(root) else "does not exist"
            raise DatasetError(f"Folder {root!r} {what}. Expected a folder with images in it.")
        found = FolderTree(Path(root)).walk(".")
        below = (path for paths in found.images.values() for path in paths)
        paths = sorted((*found.strays, *below), key=bytewise)
        notes = left_out(others=found.others, repeats=found.repeats)
        if not paths:
            said = " ".join(notes)
            raise DatasetError(f"Folder {root!r} holds no image. Nothing was extracted. {said}")
        images = FolderImages(root, tuple(paths))
        split = Split(UNLABELLED, images, None, tuple(map(portable, paths)))
        return Dataset(name, slug, (), {UNLABELLED: split}, notes)
