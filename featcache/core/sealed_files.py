"""Small files for featcache's own use, under one digest: whole, or not read at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from featcache.core.identity import SHA256_BYTES
from featcache.core.replace import replace_file
from featcache.errors import CorruptError


def write_sealed(path: Path, kind: bytes, content: bytes) -> None:
    """Write a file in one piece, behind its kind and its SHA-256.

    Args:
        path: The file.
        kind: Says what it is, and in which version.
        content: What `read_sealed` will give.

    Raises:
        StorageError: If it cannot be written; what was there before is as it was.
    """
    replace_file(path, kind + hashlib.sha256(content).digest() + content)


def read_sealed(path: Path, kind: bytes) -> bytes | None:
    """Read what `write_sealed` wrote; None if there is no such file.

    Raises:
        CorruptError: If it holds anything else.
        OSError: If it cannot be read.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = file.read()
    except FileNotFoundError:
        return None
    start = len(kind) + SHA256_BYTES
    content = found[start:]
    if found[:start] != kind + hashlib.sha256(content).digest():
        raise CorruptError(f"{path} is damaged, or of another version")
    return content
