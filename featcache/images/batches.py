"""Batches of uint8 images on a fixed grid, from memory or from image files; no torch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterable

from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback, silent
from featcache.core.stopping import stop_if_asked
from featcache.images.decode_batches import Decoder, ImageBatch, Span
from featcache.images.decode_pool import Workers
from featcache.images.given_images import GivenImages
from featcache.images.splits import ArrayImages, Split


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
    on_note: NoteCallback = silent,
) -> Generator[ImageBatch, None, None]:
    """Yield the batches of `spans`, in order.

    Images in memory come at their own size. Image files are decoded, resized and cropped, in worker
    processes if there are any. The processes end with the iterator: close it, or exhaust it.

    Args:
        split: The images.
        spans: Which rows, batch by batch. With `batch_size`, each is asked for when its turn comes.
        preprocess: How image files are resized and cropped.
        n_workers: Decoding processes; 0 decodes in this one. So does a daemonic process, which may
            have no children. Images that a Python object gives are asked for in this process, too.
            Without worker processes nothing stops a decoder that never ends.
        batch_size: Images of the longest batch; None looks through all spans for it.
        may_skip: Whether an image that this machine cannot decode is left out, with a reason.
        on_note: Told when an image had to be tried again.

    Raises:
        DeviceError: If this machine cannot decode an image that may not be left out.
        MismatchError: If an image changed since the dataset was hashed.
        StorageError: If the disk fails, or a file vanished.
    """
    if isinstance(split.images, ArrayImages):
        for span in spans:
            stop_if_asked()
            yield ImageBatch(span, split.images.pixels[span.start : span.stop])
        return
    decoder = Decoder(split.images, preprocess, may_skip)
    if n_workers and multiprocessing.current_process().daemon:
        on_note("images are decoded in this process: it is daemonic, and may have no children")
        n_workers = 0
    if isinstance(split.images, GivenImages):
        n_workers = 0  # their code may use torch, whose threads a forked process lacks
    if n_workers == 0:
        yield from map(decoder.batch, spans)
        return
    if batch_size is None:
        spans = list(spans)
        batch_size = max((span.stop - span.start for span in spans), default=0)
        n_workers = min(n_workers, len(spans))
    with Workers(decoder, n_workers=n_workers, batch_size=batch_size, on_note=on_note) as workers:
        yield from workers.batches(spans)


__all__ = ["ImageBatch", "Span", "after_loading", "image_shape", "load_batches"]
