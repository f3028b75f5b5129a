"""Paths as a shell reads them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """Put the home folder for `~`; that of a user who does not exist stays as it is written.

    `Path.expanduser` raises a RuntimeError there.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111
