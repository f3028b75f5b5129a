"""Names of datasets: one word ("digits"), or a kind and a name ("folder:pets")."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

from featcache.core.arguments import text
from featcache.errors import UsageError, clipped

FOLDER = "folder:"
IMAGES = "images:"
LIST = "list:"
PARQUET = "parquet:"
TAR = "tar:"
ZIP = "zip:"
PYTHON = "python:"
TORCHVISION = "torchvision:"
IMPORTED_PREFIX = "imported:"
OF_PATHS = (FOLDER, IMAGES, LIST, PARQUET, TAR, ZIP)
KINDS = (*OF_PATHS, TORCHVISION, PYTHON, IMPORTED_PREFIX)
# Which columns the name of a dataset of each kind may say, behind a "#".
_COLUMNS_OF = {
    LIST: ("path", "label"),
    PARQUET: ("path", "label"),
    TAR: ("path", "label"),
    ZIP: ("path", "label"),
}
_KIND_BY_ENDING = {
    ".csv": LIST,
    ".tsv": LIST,
    ".jsonl": LIST,
    ".parquet": PARQUET,
    ".zip": ZIP,
    ".tar": TAR,
}
_SAID = re.compile(r"#((?:path|label)=[^#]*)\Z")


def dataset_name(value: Any) -> str:
    """Take the name of a dataset, in any case; a path is that of a folder, a list, an archive."""
    if not isinstance(value, str | os.PathLike):
        raise UsageError(
            f"The dataset is {type(value).__name__}, but must be a name, a path, or what "
            f"featcache.make_dataset made. Nothing was started. For arrays and torch Datasets, "
            f"give featcache.make_dataset((images, labels), name=...) in its place."
        )
    name = text("--dataset", value)
    kind, separator, rest = name.partition(":")
    if f"{kind.lower()}:" in KINDS and separator:
        return f"{kind.lower()}:{rest}"
    if not isinstance(value, str):
        return name_of_path(name) or f"{FOLDER}{name}"
    return name if separator or os.path.isdir(name) else name.lower()  # noqa: PTH112 - any text


def columns_in(name: str) -> dict[str, str]:
    """Read the columns that a dataset's name says: "list:pets.csv#label=breed" has {"label": ...}.

    Raises:
        UsageError: If it says something else.
    """
    said = _SAID.search(name)
    if said is None:
        return {}
    pairs = parse_qsl(said[1], keep_blank_values=True)
    columns = dict(pairs)
    if len(columns) < len(pairs) or set(columns) - {"path", "label"} or columns.get("path") == "":
        raise UsageError(
            f"Dataset {clipped(repr(name))} ends with {said[0]!r}; expected #label=COLUMN, "
            f"#path=COLUMN or #path=COLUMN&label=COLUMN."
        )
    return columns


def without_columns(name: str) -> str:
    """Take the columns off a dataset's name."""
    return _SAID.sub("", name)


def with_columns(name: str, columns: Mapping[str, str]) -> str:
    """Write columns behind a dataset's name, in place of those that it says.

    Raises:
        UsageError: If a dataset of its kind has no such column.
    """
    if not columns:
        return name
    columns = {**columns_in(name), **columns}
    kind = f"{name.partition(':')[0]}:"
    for column in columns:
        if column not in _COLUMNS_OF.get(kind, ()):
            kinds = " and ".join(k for k, known in _COLUMNS_OF.items() if column in known)
            raise UsageError(
                f"--{column}-column is for {kinds}, but the dataset is {clipped(repr(name))}. "
                f"Nothing was started. Leave it out."
            )
    said = "&".join(f"{kind}={quote(column)}" for kind, column in sorted(columns.items()))
    return without_columns(name) + (f"#{said}" if said else "")


def name_of_path(path: str) -> str | None:
    """Name the dataset that is probably meant by a path; None if nothing fits is there."""
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name too long
        return f"{FOLDER}{path}"
    kind = _KIND_BY_ENDING.get(os.path.splitext(path)[1].lower())  # noqa: PTH122
    return f"{kind}{path}" if kind is not None and os.path.isfile(path) else None  # noqa: PTH113


def imported_slug(name: str, *, said_by: str = "--name") -> str:
    """Take the name of an imported dataset, which is also the folder of its caches and runs.

    Args:
        name: As it was given.
        said_by: The option or argument that gave it, for the message.

    Raises:
        UsageError: If it has other characters than letters, digits, dots, dashes and underscores.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(
            f"{said_by} is {name!r}, but must be 1 to 64 letters, digits, dots, dashes and "
            f"underscores. Nothing was written."
        )
    return name
