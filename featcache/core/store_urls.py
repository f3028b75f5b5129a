"""URLs of object stores: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass

from featcache.errors import UsageError, clipped

PARTS = ".parts"
_SCHEMES = ("s3", "gs", "az")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{0,221}", re.IGNORECASE)
_PART = re.compile(r"[^\x00-\x1f\x7f?#*\[\]{}\\]+")


@dataclass(frozen=True)
class StoreUrl:
    """A place in an object store.

    Attributes:
        scheme: "s3", "gs" or "az".
        bucket: The bucket; with az, the container.
        path: Below it, without slashes at its ends; may be empty.
    """

    scheme: str
    bucket: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.path}" if self.path else "")

    def below(self, key: str) -> StoreUrl:
        """Give a place within this one."""
        return StoreUrl(self.scheme, self.bucket, f"{self.path}/{key}".strip("/"))

    @property
    def is_parts_folder(self) -> bool:
        """Whether it is `.../<dataset>/<name>.parts`."""
        return self.path.endswith(PARTS) and "/" in self.path

    @property
    def store(self) -> StoreUrl:
        """The --cache-dir in which a folder of parts is."""
        return StoreUrl(self.scheme, self.bucket, "/".join(self.path.split("/")[:-2]))


def shown(place: str) -> str:
    """Write a URL as a message may: where it may hold a secret, its scheme alone.

    A query may be a signature, and what stands before an "@" a name and password.
    """
    scheme, mark, _ = place.partition(":/")
    return f"{scheme}{mark}/..." if mark and set("@?#") & set(place) else place


def is_in_store(place: str | os.PathLike[str] | None) -> bool:
    """Tell whether a text is the URL of a place in an object store, well written or not."""
    return isinstance(place, str) and place.partition("://")[0].lower() in _SCHEMES


def store_url(place: str) -> StoreUrl:
    """Read a URL of an object store, and check that the package for it is installed.

    Raises:
        UsageError: If it is not well written, or the extra is missing.
    """
    scheme, _, rest = place.partition("://")
    bucket, _, path = rest.partition("/")
    parts = path.strip("/").split("/") if path.strip("/") else []
    if "@" in bucket:  # it may hold a secret, so it is not shown
        raise UsageError(
            f"A {scheme.lower()}:// URL must not hold credentials: they come from the environment. "
            f"Nothing was started."
        )
    if not _BUCKET.fullmatch(bucket) or not all(
        _PART.fullmatch(part) and part not in (".", "..") for part in parts
    ):
        raise UsageError(
            f"{clipped(shown(place))!r} is no place in an object store. Nothing was started. Write "
            f"it like {scheme.lower()}://bucket/prefix."
        )
    if importlib.util.find_spec("obstore") is None:
        raise UsageError(
            f"{clipped(shown(place))!r} is in an object store, and the package for these is not "
            f"installed. Nothing was started. Install it with: pip install 'featcache[cloud]'"
        )
    return StoreUrl(scheme.lower(), bucket, "/".join(parts))


def parts_url(place: str) -> StoreUrl:
    """Read the URL of a folder of parts.

    Raises:
        UsageError: If it is none, or as `store_url` raises it.
    """
    url = store_url(place)
    if not url.is_parts_folder:
        raise UsageError(
            f"{url} is no folder of parts, whose name ends with {PARTS}. Nothing was done. See "
            f"what there is with: featcache cache ls --cache-dir {url}"
        )
    return url
