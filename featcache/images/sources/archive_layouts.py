"""A dataset in archives: class folders, a list, or a label beside each image (WebDataset)."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace

from featcache.core.paths import native
from featcache.errors import UsageError, clipped
from featcache.images.archives.images import ArchiveImages, read_member
from featcache.images.archives.member import ArchivedFile, refused
from featcache.images.archives.tree import ArchiveTree
from featcache.images.image_names import is_image_name
from featcache.images.packed_images import Pack
from featcache.images.sources.class_folders import read_class_folders
from featcache.images.sources.labelled_rows import LabelledRows
from featcache.images.sources.list_reader import METADATA, parse_list
from featcache.images.sources.list_rows import rows_of_list
from featcache.images.sources.shards import splits_of_shards
from featcache.images.sources.web_dataset import (
    label_files,
    labels_beside,
    place_of,
    read_web_dataset,
)
from featcache.images.splits import Dataset, UnreadableImageError


def read_archives(
    name: str,
    *,
    slug: str,
    title: str,
    archives: tuple[Pack, ...],
    members: Sequence[ArchivedFile],
    asked: Mapping[str, str],
) -> Dataset:
    """Read the layout of archives by the names of their files; no image is opened.

    Where some image has a label beside it (KEY.jpg with KEY.cls or KEY.json), all must, and rows
    keep the order of the archives. Where there is one metadata.csv or its like, it says the rows.
    Else the folders are the classes, as with folder:PATH; the folder that an archive wraps around
    all others does not count. Splits are what folders or a column say, else the archives' names.

    Args:
        name: Of the dataset, as the user gave it.
        slug: The name as a folder name.
        title: The path as the user gave it, for messages.
        archives: The archives.
        members: Their files, in order, each name once.
        asked: Columns that the dataset's name says: keys of a KEY.json, or of the list.

    Raises:
        DatasetError: If it is none of these, with the member.
        UsageError: If a column is named, but there is nothing that has columns.
    """
    files = label_files(members)
    images = [member for member in members if is_image_name(member.name)]
    splits = splits_of_shards([archive.path for archive in archives])
    if any(labels_beside(image, files) for image in images):
        rows = read_web_dataset(archives, images, files, title=title, asked=asked, splits=splits)
        return rows.dataset(name, slug=slug)
    lists = [member for member in members if member.name.rpartition("/")[2] in METADATA]
    if len(lists) == 1:
        return _listed(archives, members, lists[0], asked, splits).dataset(name, slug=slug)
    if asked:
        raise UsageError(
            f"{title!r} has neither KEY.json beside an image nor one {METADATA[0]}, so a column "
            f"means nothing. Nothing was extracted. Leave it out."
        )
    tree = ArchiveTree.of(title, tuple(member.name for member in members))
    by_name = {member.name: member for member in images}

    def images_at(paths: Sequence[str]) -> ArchiveImages:
        return ArchiveImages.of(archives, [by_name[tree.wrapper + path] for path in paths])

    dataset = read_class_folders(name, slug=slug, tree=tree, images_at=images_at)
    if splits is None or len(dataset.splits) > 1:
        return dataset
    return _parted(dataset, archives, splits)


def _parted(dataset: Dataset, archives: tuple[Pack, ...], splits: Sequence[str]) -> Dataset:
    """Part the images of class folders by the splits that their archives are called after."""
    whole = dataset.splits["train"]
    images, labels = whole.images, whole.labels
    assert isinstance(images, ArchiveImages)  # as read_archives made them
    assert labels is not None
    rows = LabelledRows(
        where=f"{len(archives)} archives",
        place=lambda row: place_of(images.names[row], int(images.places[row, 0]), archives),
        images=images,
        files=images.names,
        ids=whole.ids,
        labels=[dataset.class_names[k] for k in labels],
        splits=_splits_of_rows(images, splits),
        class_names=dataset.class_names,
        notes=dataset.notes,
    )
    return rows.dataset(dataset.name, slug=dataset.slug)


def _splits_of_rows(images: ArchiveImages, splits: Sequence[str]) -> list[str]:
    return [splits[archive] for archive in images.places[:, 0]]


def _listed(
    archives: tuple[Pack, ...],
    members: Sequence[ArchivedFile],
    of_rows: ArchivedFile,
    asked: Mapping[str, str],
    splits: Sequence[str] | None,
) -> LabelledRows:
    """Take the images that a list in the archive names, by paths relative to it."""
    path = archives[of_rows.archive].path
    try:
        content = read_member(path, of_rows)
    except UnreadableImageError as err:
        raise refused(path, of_rows.name, f"cannot be read ({err})", "Make it again.") from err
    said = parse_list(f"{path}/{of_rows.name}", content)
    folder = posixpath.dirname(of_rows.name)
    by_name = {member.name: member for member in members}

    def images_of(files: Sequence[str]) -> ArchiveImages:
        names = [posixpath.normpath(posixpath.join(folder, native(file))) for file in files]
        for row, name in enumerate(names):
            if name not in by_name:
                raise said.refusal(row, f"{clipped(repr(files[row]))} is not in the archive.")
        return ArchiveImages.of(archives, [by_name[name] for name in names])

    rows = rows_of_list(said, asked, images_of=images_of)
    if splits is None or rows.splits is not None:
        return rows
    assert isinstance(rows.images, ArchiveImages)  # as images_of made them
    return replace(rows, splits=_splits_of_rows(rows.images, splits))
