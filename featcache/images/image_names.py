"""What the name of a file tells: whether it counts as an image, and its place among others."""

from __future__ import annotations

import os

from featcache.images.decode import HEIC_EXTENSIONS, image_extensions

_LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}


def is_image_name(name: str) -> bool:
    """Tell by the extension, in any case, whether a file counts as an image."""
    return name.lower().endswith(image_extensions())


def is_heic_name(name: str) -> bool:
    """Tell by the extension whether a file is a photo that only the extra `heif` reads."""
    return name.lower().endswith(HEIC_EXTENSIONS)


def is_litter(name: str) -> bool:
    """Tell whether a file or folder is hidden, or one that operating systems leave behind."""
    return name.startswith(".") or name.lower() in _LITTER


def bytewise(path: str) -> bytes:
    """Give the key that sorts paths alike on every machine and in every locale."""
    return os.fsencode(path)
