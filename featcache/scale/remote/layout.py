"""Which objects a folder of parts has in a store, and what the small ones say.

    plan.json               the plan, as in a folder
    data/<sha256>.h5        a part, named by its bytes
    markers/<part>.json     says which bytes are that part; written when they are there
    cache.json              the seal: the digests of the plan and of all parts

plan.json, the markers and the seal are only ever created. A part that is half uploaded has no
marker. The seal follows from the plan and the markers, so whoever writes it writes the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from featcache.core.identity import canonical_json
from featcache.core.store_urls import StoreUrl
from featcache.errors import CorruptError, clipped
from featcache.scale.plan_file import NAME, PartsPlan
from featcache.scale.remote.objects import Objects
from featcache.store.json_values import count, mapping, text

_VERSION = 1


@dataclass(frozen=True)
class Marker:
    """Says which object is a part.

    Attributes:
        sha256: Of its bytes, 64 hex digits.
        nbytes: Their number.
    """

    sha256: str
    nbytes: int

    @property
    def name(self) -> str:
        """Of the object, within the folder."""
        return f"data/{self.sha256}.h5"


@dataclass(frozen=True)
class Seal:
    """A cache in a store: its plan and its parts.

    Attributes:
        plan_sha256: Of the bytes of plan.json.
        parts: The marker of each share that has blocks, by the name of its part.
    """

    plan_sha256: str
    parts: Mapping[str, Marker]

    def to_bytes(self) -> bytes:
        """Write it, always with the same bytes."""
        parts = {name: asdict(marker) for name, marker in self.parts.items()}
        return _sealed({"plan_sha256": self.plan_sha256, "parts": parts})


@dataclass(frozen=True)
class PartsThere:
    """A folder of parts in a store.

    Attributes:
        objects: Of the store.
        url: Of the folder.
    """

    objects: Objects
    url: StoreUrl

    def key(self, name: str) -> str:
        """Give the key of an object of the folder."""
        return f"{self.url.path.removeprefix(self.objects.url.path).lstrip('/')}/{name}"

    def plan_bytes(self) -> bytes | None:
        """Read the plan; None if there is none."""
        return self.objects.get(self.key(NAME))

    def markers(self, plan: PartsPlan) -> dict[int, Marker]:
        """Read the markers that are there, by the number of the share."""
        found = self.objects.get_all([self.key(marker_name(plan, i)) for i in plan.filled])
        return {
            i: read_marker(content, f"{self.url}/{marker_name(plan, i)}")
            for i, content in zip(plan.filled, found, strict=True)
            if content is not None
        }


SEAL = "cache.json"


def marker_name(plan: PartsPlan, index: int) -> str:
    """Name the marker of a share, within its folder."""
    return f"markers/{plan.part(index).name}.json"


def marker_bytes(marker: Marker) -> bytes:
    """Write a marker."""
    return _sealed(asdict(marker))


def read_marker(content: bytes, where: str) -> Marker:
    """Read a marker.

    Raises:
        CorruptError: If it is none.
    """
    return _marker(_read(content, where), where)


def seal_of(plan_bytes: bytes, plan: PartsPlan, markers: Mapping[int, Marker]) -> Seal:
    """Make the seal of a folder whose markers are all there."""
    parts = {plan.part(i).name: marker for i, marker in sorted(markers.items())}
    return Seal(hashlib.sha256(plan_bytes).hexdigest(), parts)


def _marker(said: Mapping[str, object], where: str) -> Marker:
    try:
        marker = Marker(text(said["sha256"]), count(said["nbytes"], least=1))
        if len(marker.sha256) != 64 or not set(marker.sha256) <= set("0123456789abcdef"):
            raise ValueError("no SHA-256")
    except (ValueError, KeyError, TypeError) as err:
        raise _damaged(where, err) from err
    return marker


def _sealed(said: dict[str, object]) -> bytes:
    said = {**said, "version": _VERSION}
    digest = hashlib.sha256(canonical_json(said).encode()).hexdigest()
    return json.dumps({**said, "digest": digest}, sort_keys=True, indent=1).encode() + b"\n"


def _read(content: bytes, where: str) -> dict[str, object]:
    try:
        said = dict(mapping(json.loads(content)))
        digest = said.pop("digest")
        if digest != hashlib.sha256(canonical_json(said).encode()).hexdigest():
            raise ValueError("its SHA-256 differs")
        if said["version"] != _VERSION:
            raise ValueError(f"its version is {said['version']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise _damaged(where, err) from err
    return said


def _damaged(where: str, err: Exception) -> CorruptError:
    return CorruptError(
        f"{where} is not what featcache wrote ({clipped(str(err))}). Nothing was changed. Remove "
        f"it with a tool of the store, and run the share or the merge again."
    )
