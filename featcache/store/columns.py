"""Labels, ids and reasons as the bytes of their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptError
from featcache.store.manifest import REASON_BYTES, Extent


class SplitRows(NamedTuple):
    """What is known of a split before its images are decoded.

    Attributes:
        labels: (N,) int64; None if the images have none.
        ids: N ids.
        image_sha256: (N, 32) uint8, SHA-256 of each image; None if they are not known.
    """

    labels: npt.NDArray[np.int64] | None
    ids: Sequence[str]
    image_sha256: npt.NDArray[np.uint8] | None = None


def known_columns(
    rows: SplitRows, columns: Mapping[str, Extent], start: int, stop: int
) -> dict[str, bytes]:
    """Write what is known of the rows start..stop as bytes of those columns that the file has."""
    width = columns["ids"].row_nbytes
    ids = b"".join(encode_id(i).ljust(width, b"\0") for i in rows.ids[start:stop])
    require_planned(len(ids) == (stop - start) * width, "an id", "it is longer than its place")
    known = {"ids": ids}
    if "labels" in columns and rows.labels is not None:
        known["labels"] = rows.labels[start:stop].astype("<i8").tobytes()
    if "image_sha256" in columns and rows.image_sha256 is not None:
        known["image_sha256"] = rows.image_sha256[start:stop].tobytes()
    return known


def require_known(rows: SplitRows, columns: Mapping[str, Extent], split: str) -> None:
    """Refuse to write a split of which something else is known than was planned."""
    found = {"labels": rows.labels, "image_sha256": rows.image_sha256}
    shapes = {name: array.shape for name, array in found.items() if array is not None}
    shapes["ids"] = (len(rows.ids),)
    for name in {"ids", *found} & columns.keys():
        holds = shapes.get(name) == columns[name].shape
        require_planned(holds, split, "its labels, ids or digests of images are others")


def require_planned(holds: bool, what: object, problem: str) -> None:
    """Refuse to write what was not planned; an `assert` would not under `python -O`."""
    if not holds:
        raise CorruptError(f"{what} is not as it was planned: {problem}. It was not written.")


def encode_id(text: str) -> bytes:
    """Encode an id as UTF-8; bytes of a file name that are not UTF-8 stay as they are."""
    return text.encode(errors="surrogateescape")


def clipped_reason(reason: str) -> bytes:
    """Write as much of a reason as its column holds, in whole letters."""
    return reason.encode(errors="replace")[:REASON_BYTES].decode(errors="ignore").encode()
