"""Labels, ids and reasons as the bytes of their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.errors import CorruptError
from featcache.store.manifest import REASON_BYTES, Extent


class SplitRows(NamedTuple):
    """What is known of a split before its images are read."""

    labels: npt.NDArray[np.int64]
    ids: Sequence[str]


def labels_and_ids(
    rows: SplitRows, columns: Mapping[str, Extent], start: int, stop: int
) -> dict[str, bytes]:
    """Write the labels and ids of rows start..stop as bytes of their columns."""
    width = columns["ids"].row_nbytes
    ids = b"".join(encode_id(i).ljust(width, b"\0") for i in rows.ids[start:stop])
    require_planned(len(ids) == (stop - start) * width, "an id", "it is longer than its place")
    return {"labels": rows.labels[start:stop].astype("<i8").tobytes(), "ids": ids}


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
