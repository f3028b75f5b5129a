"""The rows of a cache, compared with the features of one image."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from featcache.core.reporting import NoteCallback
from featcache.errors import UsageError, counted
from featcache.insight.nearest import RowSet, nearest_rows
from featcache.insight.similar.asked import AskedRow
from featcache.insight.similar.query import NewImage
from featcache.insight.similar.result import Neighbour, SimilarImages
from featcache.store import Cache


def nearest_to_row(
    asked: AskedRow, cache: Cache, splits: Sequence[str], k: int, *, on_note: NoteCallback
) -> SimilarImages:
    """Find the rows nearest to one of the cache, which is not its own neighbour.

    Args:
        asked: The row.
        cache: Its cache.
        splits: Where to look.
        k: How many.
        on_note: Told if there are fewer.

    Raises:
        UsageError: If there is no other row.
    """
    queries = RowSet.of_rows(cache, {asked.split: torch.tensor([asked.row])})
    digests = cache[asked.split].image_sha256
    own = set() if digests is None else {digests[asked.row].tobytes()}
    n_rows, neighbours = _compared(queries, cache, splits, k, own, asked, on_note)
    return SimilarImages(
        cache=cache.path,
        backbone=cache.identity.backbone,
        image=asked.id,
        split=asked.split,
        row=asked.row,
        label=_label_of(cache, asked.split, asked.row),
        n_rows=n_rows,
        neighbours=neighbours,
    )


def nearest_to_image(
    features: Tensor,
    new: NewImage,
    cache: Cache,
    splits: Sequence[str],
    k: int,
    *,
    on_note: NoteCallback,
) -> SimilarImages:
    """Find the rows nearest to a new image; `features` are its own, (1, D) float32.

    Raises:
        UsageError: If there is no row.
    """
    queries = RowSet.of_features(features)
    n_rows, neighbours = _compared(queries, cache, splits, k, new.digests, None, on_note)
    return SimilarImages(
        cache=cache.path,
        backbone=cache.identity.backbone,
        image=os.fspath(new.path),
        split=None,
        row=None,
        label=None,
        n_rows=n_rows,
        neighbours=neighbours,
    )


def _compared(
    queries: RowSet,
    cache: Cache,
    splits: Sequence[str],
    k: int,
    digests: Collection[bytes],
    asked: AskedRow | None,
    on_note: NoteCallback,
) -> tuple[int, tuple[Neighbour, ...]]:
    """Count the rows that are compared, and find the nearest; `asked` is none of them."""
    known = RowSet.of_cache(cache, *splits)
    is_among = asked is not None and asked.split in splits
    n_rows = len(known) - is_among
    if not n_rows:
        raise UsageError(
            f"{cache.path.name} has no other row with features in {', '.join(splits)}. Nothing was "
            f"compared."
        )
    if k > n_rows:
        on_note(f"{k} were asked for, but there are {counted(n_rows, 'other row')}: all are told")
    found = nearest_rows(queries, known, k + is_among)
    pairs = zip(found.positions[0].tolist(), found.cosines[0].tolist(), strict=True)
    neighbours = (_neighbour(cache, *known.place(i), cosine, digests) for i, cosine in pairs)
    others = [
        one
        for one in neighbours
        if asked is None or (one.split, one.row) != (asked.split, asked.row)
    ]
    return n_rows, tuple(others[:k])


def _neighbour(
    cache: Cache, split: str, row: int, cosine: float, digests: Collection[bytes]
) -> Neighbour:
    rows = cache[split]
    is_same = rows.image_sha256 is not None and rows.image_sha256[row].tobytes() in digests
    return Neighbour(split, row, rows.ids[row], _label_of(cache, split, row), cosine, is_same)


def _label_of(cache: Cache, split: str, row: int) -> str | None:
    labels = cache[split].labels
    return None if labels is None else cache.class_names[int(labels[row])]
