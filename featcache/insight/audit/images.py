"""The images of a cache as an audit needs them: their digests, and how they look."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback
from featcache.images.batches import Span, load_batches
from featcache.images.decode_batches import resize_image
from featcache.images.given_images import GivenImages
from featcache.images.splits import ArrayImages, Dataset, Split
from featcache.insight.audit.grey import SIDE, GreyArray, to_grey
from featcache.insight.audit.rows import AuditedRows, NumbersOfRows

_BATCH = 64
_SMALL = Preprocess.notebook(SIDE)


def digests_of(rows: AuditedRows, dataset: Dataset | None) -> npt.NDArray[np.uint8] | None:
    """Give the SHA-256 of each image, (N, 32).

    Args:
        rows: N images.
        dataset: What they are of, hashed, for a cache of format version 1; None if it is not here.

    Returns:
        None where neither the cache nor the dataset tells.
    """
    found = []
    for name, own in rows.of_split.items():
        digests = rows.cache[name].image_sha256
        if digests is None:
            if dataset is None:
                return None
            digests = dataset.splits[name].image_sha256()
        found.append(digests[own])
    return np.concatenate(found) if found else None


def grey_images(
    rows: AuditedRows,
    dataset: Dataset,
    *,
    n_workers: int,
    on_note: NoteCallback,
    on_progress: Callable[[int, int], None],
) -> tuple[GreyArray, npt.NDArray[np.bool_]]:
    """Read all images, grey and small.

    Args:
        rows: N images.
        dataset: What they are of.
        n_workers: Processes that decode files.
        on_note: Told what had to be tried again.
        on_progress: Called with the images that are read, and N.

    Returns:
        (N, 32, 32) grey levels, and (N,) which of them could be read.

    Raises:
        MismatchError: If a file is another than the cache was made from.
        StorageError: If the disk fails.
    """
    grey, is_there = np.zeros((len(rows), SIDE, SIDE), np.uint8), np.zeros(len(rows), np.bool_)
    for name, own in rows.numbers.items():
        if name not in dataset.splits:
            continue
        split, there = _in_order(rows, name, dataset)
        numbers = np.array(own, np.int64)[there]
        spans = [
            Span(start, min(start + _BATCH, len(split))) for start in range(0, len(split), _BATCH)
        ]
        batches = load_batches(
            split, spans, preprocess=_SMALL, n_workers=n_workers, may_skip=True, on_note=on_note
        )
        for batch in batches:
            part = numbers[batch.span.start : batch.span.stop]
            grey[part] = to_grey(_small(batch.images))
            is_there[part] = True
            is_there[part[list(batch.reasons)]] = False
            on_progress(own.start + batch.span.stop, len(rows))
    return grey, is_there


def _in_order(rows: AuditedRows, name: str, dataset: Dataset) -> tuple[Split, NumbersOfRows]:
    """Find the images of a split in the dataset, by their ids: those that are there, and which."""
    split, ids = dataset.splits[name], rows.cache[name].ids
    place = {image_id: i for i, image_id in enumerate(split.ids)}
    places = np.array([place.get(ids[row], -1) for row in rows.of_split[name]], np.int64)
    there, digests = np.flatnonzero(places >= 0), rows.cache[name].image_sha256
    if digests is not None and isinstance(split.images, ArrayImages | GivenImages):
        are_same = split.image_sha256()[places[there]] == digests[rows.of_split[name][there]]
        there = there[are_same.all(1)]
    images = split.images.take(places[there])
    if digests is not None:  # a file is compared when it is read
        own = digests[rows.of_split[name][there]]
        images = images.expecting([digest.tobytes() for digest in own])
    return Split(name, images, None, [split.ids[i] for i in places[there]]), there


def _small(pixels: GreyArray) -> GreyArray:
    """Resize (B, H, W, 3) images to 32 by 32 pixels, as files were when they were decoded."""
    if pixels.shape[1:3] == (SIDE, SIDE):
        return pixels
    return np.stack([resize_image(Image.fromarray(image), _SMALL) for image in pixels])
