"""What a cache says of itself: its identity, numeric class and provenance, checked when read.

Caches have different fields: those of pixels, of imported features and of other versions differ. So
all three keep their JSON exactly, also the fields that this version does not know. The fingerprint
is the hash of that JSON. The fields that the code reads have a type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from featcache.config import EXIF_ORIENTATIONS
from featcache.core.identity import fingerprint
from featcache.core.preprocess import Preprocess
from featcache.core.views import Views
from featcache.store.json_values import count, mapping, text

PART = "part"
"""The field of an identity that only a part has: [first block, block behind its last, blocks]."""
_BACKBONE_NAME = re.compile(r"\w[\w.-]{0,99}")  # it will name folders
_TEXTS = ("layer", "pool", "weights_sha256", "precision", "store_dtype", "dataset_sha256")


@dataclass(frozen=True, eq=False)
class _Said(Mapping[str, Any]):
    """A part of a manifest: a mapping of what it says, equal to any other that says the same."""

    _json: Mapping[str, Any]

    def __getitem__(self, field: str) -> Any:
        return self._json[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    def to_json(self) -> dict[str, Any]:
        """Give the JSON, to the letter."""
        return dict(self._json)


class Identity(_Said):
    """What the features of a cache are; two caches of one identity hold the same features.

    A property raises a KeyError where the cache does not say it (`require_fields`).
    """

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Identity:
        """Check what a file or a plan says.

        Raises:
            KeyError: If it names no backbone.
            TypeError, ValueError: If a field that the code reads is not what it is in every cache.
        """
        identity = cls(mapping(stored))
        if not _BACKBONE_NAME.fullmatch(text(stored["backbone"])):
            raise ValueError(f"{stored['backbone']!r}, which is no name of a backbone")
        for name in _TEXTS:
            text(stored.get(name, ""))
        if "preprocess" in stored:
            _ = identity.preprocess
        if "bn" in stored:
            _ = identity.bn
        if "views" in stored:
            _ = identity.views
        if "max_pixels" in stored:
            count(stored["max_pixels"], least=1)
        if PART in stored:
            first, stop, n_blocks = map(count, stored[PART])
            if not first < stop <= n_blocks:
                raise ValueError(f"blocks {first} to {stop} of {n_blocks}")
        if stored.get("exif_orientation", "ignore") not in EXIF_ORIENTATIONS:
            raise ValueError(f"EXIF orientation {stored['exif_orientation']!r}")
        return identity

    @property
    def fingerprint(self) -> str:
        """64 hex digits."""
        return fingerprint(self.to_json())

    @property
    def backbone(self) -> str:
        """The backbone's name."""
        return str(self["backbone"])

    @property
    def bn(self) -> str:
        """The BatchNorm mode: "frozen" or "adapted"."""
        bn = self["bn"]
        return text(bn["mode"] if isinstance(bn, Mapping) else bn)

    @property
    def preprocess(self) -> Preprocess:
        """How an image became the backbone's input."""
        return Preprocess.from_json(self["preprocess"])

    @property
    def views(self) -> Views:
        """The views of its images."""
        return Views.from_json(self["views"]) if "views" in self else Views()


class NumericClass(_Said):
    """What decides the last digits of features beside their identity; other fields on each device.

    It is compared and hashed whole. The code reads two of its fields.
    """

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> NumericClass:
        """Check what a file or a run says.

        Raises:
            TypeError, ValueError: If a field that the code reads is not what it is in every cache.
        """
        numerics = cls(mapping(stored))
        text(stored.get("compiler", ""))
        count(stored.get("batch_size", 1), least=1)
        return numerics

    @property
    def batch_size(self) -> int | None:
        """Rows in one forward pass; None if no network ran."""
        batch_size: int | None = self.get("batch_size")
        return batch_size

    @property
    def compiler(self) -> str | None:
        """The engine that ran the backbone, with its version; None if it was not compiled."""
        compiler: str | None = self.get("compiler")
        return compiler


class Provenance(_Said):
    """Where a cache is from, for people; not part of its identity."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Provenance:
        """Check what a file or a plan says.

        Raises:
            KeyError: If it names no dataset.
            TypeError, ValueError: If a field that the code reads is not what it is in every cache.
        """
        provenance = cls(mapping(stored))
        text(stored["dataset"])
        text(stored.get("weights", ""))
        text(stored.get("backbone", ""))
        if stored.get("limit") is not None:
            count(stored["limit"], least=1)
        return provenance

    @property
    def dataset(self) -> str:
        """The dataset's name, as it was typed."""
        return str(self["dataset"])

    @property
    def backbone(self) -> str:
        """The backbone's name as --backbone takes it, where it is not the identity's; else empty.

        That of a folder lacks the folders above it.
        """
        return str(self.get("backbone", ""))

    @property
    def limit(self) -> int | None:
        """Images of each split that were taken; None for all, or if the cache does not say."""
        limit: int | None = self.get("limit")
        return limit

    @property
    def weights(self) -> str:
        """What filled the backbone; "none" for pixels, or if the cache does not say."""
        return str(self.get("weights", "none"))


def named_backbone(identity: Identity, provenance: Provenance) -> str:
    """Name the backbone of a cache as --backbone takes it."""
    return provenance.backbone or identity.backbone
