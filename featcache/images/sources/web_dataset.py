"""Images in archives with a label beside each, as WebDataset names them."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence

from featcache.core.paths import portable
from featcache.errors import UsageError, clipped
from featcache.images.archives.images import ArchiveImages, read_member
from featcache.images.archives.member import ArchivedFile, refused
from featcache.images.packed_images import Pack
from featcache.images.sources.columns import LABEL_NAMES
from featcache.images.sources.labelled_rows import LabelledRows
from featcache.images.splits import UnreadableImageError

_MOST_LABEL_BYTES = 2**20
_ENDINGS = (".cls", ".json")
_HOW = "Beside each image KEY.jpg belongs KEY.cls or KEY.json with its label."

LabelFiles = Mapping[str, Sequence[ArchivedFile]]
"""The files that may hold a label, by their paths without the ending."""


def label_files(members: Sequence[ArchivedFile]) -> LabelFiles:
    """Collect the files that may hold the label of an image beside them."""
    found: dict[str, list[ArchivedFile]] = {}
    for member in members:
        start, ending = posixpath.splitext(member.name)
        if ending.lower() in _ENDINGS:
            found.setdefault(start, []).append(member)
    return found


def labels_beside(image: ArchivedFile, files: LabelFiles) -> list[ArchivedFile]:
    """List the files with the key of an image, or with its whole name, before the ending.

    So 1.caption.json is no label of 1.jpg.
    """
    starts = dict.fromkeys((_key(image.name), posixpath.splitext(image.name)[0]))
    return [member for start in starts for member in files.get(start, ())]


def read_web_dataset(
    archives: tuple[Pack, ...],
    images: Sequence[ArchivedFile],
    files: LabelFiles,
    *,
    title: str,
    asked: Mapping[str, str],
    splits: Sequence[str] | None,
) -> LabelledRows:
    """Read the label beside each image; rows keep the order of the archives.

    Args:
        archives: The archives.
        images: The images in them.
        files: What `label_files` found.
        title: The path as the user gave it, for messages.
        asked: "label" is the name of the label in KEY.json, so that no KEY.cls counts.
        splits: The split of each archive; None if their names say none.

    Raises:
        DatasetError: If an image has no label, or more than one, with the member.
        UsageError: If a column is named that cannot be there.
    """
    beside = [labels_beside(image, files) for image in images]
    column = asked.get("label")
    has_json = any(_is_json(member) for found in beside for member in found)
    if "path" in asked or (column is not None and not has_json):
        option = "--path-column" if "path" in asked else "--label-column"
        what = "the paths are those of the archive" if "path" in asked else "there is no KEY.json"
        raise UsageError(
            f"{title!r} has a label beside each image, and {what}, so {option} means nothing. "
            f"Nothing was extracted. Leave it out."
        )
    labels = []
    seen: dict[str, str] = {}
    for image, found in zip(images, beside, strict=True):
        key, path = _key(image.name), archives[image.archive].path
        if key in seen:
            raise refused(path, image.name, f"has the key of {seen[key]!r}", _HOW)
        seen[key] = image.name
        of_label = _only_label(path, image, found, column)
        labels.append(_label(archives[of_label.archive].path, of_label, column))
    return LabelledRows(
        where=repr(archives[0].path) if len(archives) == 1 else f"{len(archives)} archives",
        place=lambda row: place_of(images[row].name, images[row].archive, archives),
        images=ArchiveImages.of(archives, images),
        files=[image.name for image in images],
        ids=[portable(image.name) for image in images],
        labels=labels,
        splits=None if splits is None else [splits[image.archive] for image in images],
    )


def place_of(name: str, archive: int, archives: Sequence[Pack]) -> str:
    """Say where a member is, for messages."""
    of = "" if len(archives) == 1 else f" of {archives[archive].path!r}"
    return f"member {name!r}{of}"


def _key(name: str) -> str:
    """Give a path up to the first dot of its last part.

    Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
    """
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _is_json(member: ArchivedFile) -> bool:
    return member.name.lower().endswith(".json")


def _only_label(
    path: str, image: ArchivedFile, found: Sequence[ArchivedFile], column: str | None
) -> ArchivedFile:
    """Take the one file that holds the label of an image."""
    counting = [member for member in found if column is None or _is_json(member)]
    if not counting:
        what = "label" if column is None else f"KEY.json with a {column!r}"
        raise refused(path, image.name, f"has no {what} beside it", _HOW)
    if len(counting) > 1:
        names = " and ".join(clipped(repr(member.name)) for member in counting)
        raise refused(
            path,
            image.name,
            f"has {len(counting)} labels beside it, {names}",
            "Say which name the label has in KEY.json (--label-column), or keep one file alone.",
        )
    return counting[0]


def _label(path: str, member: ArchivedFile, column: str | None) -> str:
    """Read the label that stands beside an image."""
    try:
        text = read_member(path, member, most=_MOST_LABEL_BYTES).decode().strip()
        said = json.loads(text) if _is_json(member) else {"label": text}
    except (UnreadableImageError, ValueError, RecursionError) as err:
        raise refused(path, member.name, f"cannot be read ({err})", _HOW) from err
    wanted = LABEL_NAMES if column is None else (column,)
    values = [said[name] for name in wanted if name in said] if isinstance(said, dict) else []
    if not values:
        raise refused(path, member.name, f"has no {wanted[0]!r}", _HOW)
    label = values[0]
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        raise refused(
            path, member.name, "has a label that is neither text nor a whole number", _HOW
        )
    return str(label)
