"""What decides whether an image file becomes a row, and how; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featcache.config import ExtractSpec


@dataclass(frozen=True)
class ImageRules:
    """How image files are read; each rule follows from a file's bytes, never from the machine.

    Attributes:
        max_pixels: An image whose header says more is not decoded.
        exif_orientation: "ignore", as torchvision's loader does, or "apply".
    """

    max_pixels: int = ExtractSpec.max_pixels
    exif_orientation: str = ExtractSpec.exif_orientation

    def identity(self) -> dict[str, Any]:
        """Give what stands of them in a cache's identity: those that are not at their default."""
        default = asdict(ImageRules())
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> ImageRules:
        """Read the rules by which a cache was made."""
        return cls(**{name: identity[name] for name in asdict(cls()) if name in identity})
