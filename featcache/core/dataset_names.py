"""Names of datasets: one word ("digits"), or a kind and a name ("folder:pets")."""

from __future__ import annotations

import os
import re
from typing import Any

from featcache.core.arguments import text
from featcache.errors import UsageError

FOLDER = "folder:"
TORCHVISION = "torchvision:"
IMPORTED_PREFIX = "imported:"
KINDS = (FOLDER, TORCHVISION, IMPORTED_PREFIX)


def dataset_name(value: Any) -> str:
    """Take the name of a dataset, in any case; a path is that of a folder of images."""
    name = text("--dataset", value)
    kind, separator, rest = name.partition(":")
    if f"{kind.lower()}:" in KINDS and separator:
        return f"{kind.lower()}:{rest}"
    if not isinstance(value, str):
        return f"{FOLDER}{name}"
    return name if separator or os.path.isdir(name) else name.lower()  # noqa: PTH112 - any text


def imported_slug(name: str) -> str:
    """Take the name of an imported dataset, which is also the folder of its caches and runs.

    Raises:
        UsageError: If it has other characters than letters, digits, dots, dashes and underscores.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(
            f"--name is {name!r}, but must be 1 to 64 letters, digits, dots, dashes and "
            f"underscores. Nothing was written."
        )
    return name
