"""Batches of uint8 images on a fixed grid, from memory or from image files; no torch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterable

from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback, silent
from featcache.core.stopping import stop_if_asked
from featcache.images.augment import SplitViews
from featcache.images.decode_batches import Decoder, ImageBatch, Portion, Span
from featcache.images.decode_pool import Workers
from featcache.images.given_images import GivenImages
from featcache.images.splits import ArrayImages, Split

_MOST_BYTES = 4 << 30  # of the views that are decoded at a time; an image is decoded once for them


def image_shape(split: Split, preprocess: Preprocess) -> tuple[int, int, int]:
    """Give (H, W, 3) of the images that `load_batches` gives for this split."""
    if isinstance(split.images, ArrayImages):
        height, width = split.images.pixels.shape[1:3]
        return (height, width, 3)
    return (*preprocess.out_size, 3)


def after_loading(split: Split, preprocess: Preprocess) -> Preprocess:
    """Describe what is left to do to the images that `load_batches` gives for this split."""
    return preprocess if isinstance(split.images, ArrayImages) else preprocess.after_resize


def load_batches(
    split: Split,
    spans: Iterable[Span],
    *,
    preprocess: Preprocess,
    n_workers: int,
    batch_size: int | None = None,
    may_skip: bool = False,
    views: SplitViews | None = None,
    on_note: NoteCallback = silent,
) -> Generator[ImageBatch, None, None]:
    """Yield the batches of `spans`, in order; of several views, one after the other for each span.

    Images in memory come at their own size, unless views of them are asked for. Those, and image
    files, are decoded, resized and cropped, in worker processes if there are any. The processes end
    with the iterator: close it, or exhaust it.

    Args:
        split: The images.
        spans: Which rows, batch by batch. With `batch_size`, each is asked for when its turn comes.
        preprocess: How image files are resized and cropped.
        n_workers: Decoding processes; 0 decodes in this one. So does a daemonic process, which may
            have no children. Images that a Python object gives are asked for in this process, too.
            Without worker processes nothing stops a decoder that never ends.
        batch_size: Images of the longest batch; None looks through all spans for it.
        may_skip: Whether an image that this machine cannot decode is left out, with a reason.
        views: The views of each image; None is the plain one alone.
        on_note: Told when an image had to be tried again.

    Raises:
        DeviceError: If this machine cannot decode an image that may not be left out.
        MismatchError: If an image changed since the dataset was hashed.
        StorageError: If the disk fails, or a file vanished.
    """
    if isinstance(split.images, ArrayImages) and views is None:
        for span in spans:
            stop_if_asked()
            yield ImageBatch(span, split.images.pixels[span.start : span.stop])
        return
    decoder = Decoder(split.images, preprocess, may_skip, views)
    if n_workers and multiprocessing.current_process().daemon:
        on_note("images are decoded in this process: it is daemonic, and may have no children")
        n_workers = 0
    if isinstance(split.images, GivenImages):
        n_workers = 0  # their code may use torch, whose threads a forked process lacks
    if batch_size is None:
        spans = list(spans)
        batch_size = max((span.stop - span.start for span in spans), default=0)
        n_workers = min(n_workers, len(spans))
    parts = _parts_of_views(decoder, batch_size=batch_size, n_slots=n_workers + 1)
    portions = (Portion(span, views) for span in spans for views in parts)
    if n_workers == 0:
        for portion in portions:
            yield from decoder.batches(portion)
        return
    with Workers(
        decoder,
        n_workers=n_workers,
        batch_size=batch_size,
        n_views=len(parts[0]),
        on_note=on_note,
    ) as workers:
        yield from workers.batches(portions)


def _parts_of_views(decoder: Decoder, *, batch_size: int, n_slots: int) -> list[range]:
    """Divide the views of a batch, so that so many parts fit into the memory for images."""
    n_views = 1 if decoder.views is None else decoder.views.n
    height, width = decoder.preprocess.out_size
    nbytes = max(1, batch_size) * height * width * 3
    most = max(1, _MOST_BYTES // (n_slots * nbytes))
    return [range(n_views)[first : first + most] for first in range(0, n_views, most)]


__all__ = ["ImageBatch", "Span", "after_loading", "image_shape", "load_batches"]
