"""The answer of `similar`; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Neighbour:
    """A row that is near.

    Attributes:
        split: Its split.
        row: Its number in the split.
        id: Its id.
        label: The name of its class; None of images without labels.
        similarity: The cosine of its features and those that are asked about, -1 to 1.
        is_same_image: Whether it is the very image, by its digest; also False if the cache holds no
            digests.
    """

    split: str
    row: int
    id: str
    label: str | None
    similarity: float
    is_same_image: bool


@dataclass(frozen=True)
class SimilarImages:
    """The rows of a cache that are nearest to an image.

    Attributes:
        cache: The cache.
        backbone: Its backbone.
        image: What was asked about: the id of a row, or the path of a file.
        split: The split of that row; None of a file.
        row: Its number in the split; None of a file.
        label: The name of its class; None of a file, or without labels.
        n_rows: How many rows it was compared with: those that could be read, without itself.
        neighbours: The nearest, the first one first; of two alike the earlier row.
        page: The page that shows them; None if none was asked for.
    """

    cache: Path
    backbone: str
    image: str
    split: str | None
    row: int | None
    label: str | None
    n_rows: int
    neighbours: tuple[Neighbour, ...]
    page: Path | None = None
