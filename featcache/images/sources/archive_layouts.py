"""A dataset in archives: class folders, a list, or a label beside each image (WebDataset)."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence

from featcache.core.paths import native, portable
from featcache.errors import UsageError, clipped
from featcache.images.archives.images import ArchiveImages, read_member
from featcache.images.archives.member import ArchivedFile, refused
from featcache.images.archives.tree import ArchiveTree
from featcache.images.image_names import is_image_name
from featcache.images.sources.class_folders import read_class_folders
from featcache.images.sources.columns import LABEL_NAMES
from featcache.images.sources.labelled_rows import LabelledRows
from featcache.images.sources.list_reader import METADATA, parse_list
from featcache.images.sources.list_rows import rows_of_list
from featcache.images.sources.shards import splits_of_shards
from featcache.images.splits import Dataset, UnreadableImageError

_MOST_LABEL_BYTES = 2**20
_LABEL_ENDINGS = (".cls", ".json")
_HOW = "Beside each image KEY.jpg belongs KEY.cls or KEY.json with its label."


def read_archives(
    name: str,
    *,
    slug: str,
    title: str,
    archives: tuple[str, ...],
    members: Sequence[ArchivedFile],
    asked: Mapping[str, str],
) -> Dataset:
    """Read the layout of archives by the names of their files; no image is opened.

    Where some image has a label beside it (KEY.jpg with KEY.cls or KEY.json), all must, and rows
    keep the order of the archives. Where there is one metadata.csv or its like, it says the rows.
    Else the folders are the classes, as with folder:PATH; the folder that an archive wraps around
    all others does not count.

    Args:
        name: Of the dataset, as the user gave it.
        slug: The name as a folder name.
        title: The path as the user gave it, for messages.
        archives: Absolute paths.
        members: Their files, in order, each name once.
        asked: Columns that the dataset's name says: keys of a KEY.json, or of the list.

    Raises:
        DatasetError: If it is none of these, with the member.
        UsageError: If a column is named, but there is nothing that has columns.
    """
    of_labels = {_key(m.name): m for m in members if m.name.lower().endswith(_LABEL_ENDINGS)}
    images = [member for member in members if is_image_name(member.name)]
    if any(_key(member.name) in of_labels for member in images):
        rows = _web_dataset(archives, images, of_labels, asked.get("label"))
        return rows.dataset(name, slug=slug)
    lists = [member for member in members if member.name.rpartition("/")[2] in METADATA]
    if len(lists) == 1:
        return _listed(archives, members, lists[0], asked).dataset(name, slug=slug)
    if asked:
        raise UsageError(
            f"{title!r} has neither KEY.json beside an image nor one {METADATA[0]}, so a column "
            f"means nothing. Nothing was extracted. Leave it out."
        )
    tree = ArchiveTree.of(title, tuple(member.name for member in members))
    by_name = {member.name: member for member in images}
    return read_class_folders(
        name,
        slug=slug,
        tree=tree,
        images_at=lambda paths: ArchiveImages.of(
            archives, [by_name[tree.wrapper + path] for path in paths]
        ),
    )


def _listed(
    archives: tuple[str, ...],
    members: Sequence[ArchivedFile],
    of_rows: ArchivedFile,
    asked: Mapping[str, str],
) -> LabelledRows:
    """Take the images that a list in the archive names, by paths relative to it."""
    path = archives[of_rows.archive]
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

    return rows_of_list(said, asked, images_of=images_of)


def _web_dataset(
    archives: tuple[str, ...],
    images: Sequence[ArchivedFile],
    of_labels: Mapping[str, ArchivedFile],
    label_column: str | None,
) -> LabelledRows:
    labels = []
    seen: dict[str, str] = {}
    for image in images:
        key, path = _key(image.name), archives[image.archive]
        if key in seen:
            raise refused(path, image.name, f"has the key of {seen[key]!r}", _HOW)
        if key not in of_labels:
            raise refused(path, image.name, "has no label beside it", _HOW)
        seen[key] = image.name
        member = of_labels[key]
        labels.append(_label(archives[member.archive], member, label_column))
    splits = splits_of_shards(archives)
    ids = [portable(image.name) for image in images]
    return LabelledRows(
        where=repr(archives[0]) if len(archives) == 1 else f"{len(archives)} archives",
        place=lambda row: _place(images[row], archives),
        images=ArchiveImages.of(archives, images),
        files=[image.name for image in images],
        ids=ids,
        labels=labels,
        splits=[splits[image.archive] for image in images],
    )


def _place(image: ArchivedFile, archives: Sequence[str]) -> str:
    of = "" if len(archives) == 1 else f" of {archives[image.archive]!r}"
    return f"member {image.name!r}{of}"


def _key(name: str) -> str:
    """Give a path up to the first dot of its last part.

    Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
    """
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _label(path: str, member: ArchivedFile, column: str | None) -> str:
    """Read the label that stands beside an image."""
    is_json = member.name.lower().endswith(".json")
    try:
        text = read_member(path, member, most=_MOST_LABEL_BYTES).decode().strip()
        said = json.loads(text) if is_json else {"label": text}
    except (UnreadableImageError, ValueError, RecursionError) as err:
        raise refused(path, member.name, f"cannot be read ({err})", _HOW) from err
    wanted = (
        LABEL_NAMES if column is None or not member.name.lower().endswith("json") else (column,)
    )
    values = [said[key] for key in wanted if key in said] if isinstance(said, dict) else []
    if not values:
        raise refused(path, member.name, f"has no {wanted[0]!r}", _HOW)
    label = values[0]
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        raise refused(
            path, member.name, "has a label that is neither text nor a whole number", _HOW
        )
    return str(label)
