"""The files of parts on this machine: copied from a store, and their digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

from featcache.core.replace import write_new_file
from featcache.scale.remote.layout import Marker, PartsThere
from featcache.scale.remote.objects import BytesProgress


def bring_part(
    there: PartsThere, marker: Marker, path: Path, *, on_progress: BytesProgress
) -> None:
    """Copy a part to this machine; nothing has its name before its digest is compared.

    Raises:
        CorruptError: If its bytes are not those of its marker, or it is not there.
    """
    write_new_file(
        path,
        lambda file: there.objects.download(
            there.key(marker.name), marker.nbytes, marker.sha256, file, on_progress=on_progress
        ),
    )


def sha256_of(path: Path) -> str:
    """Hash a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
