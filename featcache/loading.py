"""Batches of uint8 images on a fixed grid, from memory or from decoding processes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.datasets.splits import ArrayImages, FileImages, Split, UnreadableImageError
from featcache.errors import FeatcacheError
from featcache.pixels import resize_image
from featcache.preprocess import Preprocess
from featcache.processwide import warnings_ignored
from featcache.stopping import stop_if_asked

_BATCHES_AHEAD_PER_WORKER = 4
_SIGNAL_GRACE_S = 0.5
_LOOKS_EVERY_S = 0.2
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Span(NamedTuple):
    """Rows start..stop of a split: one batch of the grid."""

    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Batch:
    """The images of one span.

    Attributes:
        span: Its rows.
        images: (B, H, W, 3) uint8; zeros where the image could not be read.
        reasons: Why not, by row within the batch.
    """

    span: Span
    images: npt.NDArray[np.uint8]
    reasons: Mapping[int, str] = field(default_factory=dict)


def image_shape(split: Split, preprocess: Preprocess) -> tuple[int, int, int]:
    """(H, W, 3) of the images that `load_batches` gives for this split."""
    if isinstance(split.images, ArrayImages):
        height, width = split.images.pixels.shape[1:3]
        return (height, width, 3)
    return (*preprocess.out_size, 3)


def load_batches(
    split: Split, spans: Sequence[Span], *, preprocess: Preprocess, n_workers: int
) -> Generator[Batch, None, None]:
    """Yield the batches of `spans`, in order.

    Images in memory come at their own size; image files are decoded, resized and cropped in
    worker processes. These end with the iterator: close it, or exhaust it.

    Raises:
        FeatcacheError: If a worker process dies.
        StorageError: If the disk fails, or a file vanished.
    """
    if isinstance(split.images, ArrayImages):
        for span in spans:
            stop_if_asked()
            yield Batch(span, split.images.pixels[span.start : span.stop])
        return
    decoder = _Decoder(split.images, preprocess)
    if n_workers == 0:
        yield from map(decoder.decode, spans)
        return
    yield from _from_workers(decoder, spans, min(n_workers, len(spans)))


def _from_workers(
    decoder: _Decoder, spans: Sequence[Span], n_workers: int
) -> Generator[Batch, None, None]:
    # Forked workers start in milliseconds and only run PIL; elsewhere the platform's own way.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    # Results come through pipes, not /dev/shm, which containers often limit to 64 MB.
    pool = ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=_begin_work, initargs=(decoder, os.getpid())
    )
    ahead: deque[Future[Batch]] = deque()
    try:
        for span in spans:
            # Python 3.12 warns of any fork beside threads; these children never touch torch.
            with warnings_ignored(DeprecationWarning):
                ahead.append(pool.submit(_decode_in_worker, span))
            if len(ahead) > _BATCHES_AHEAD_PER_WORKER * n_workers:
                yield _awaited(ahead.popleft())
        while ahead:
            yield _awaited(ahead.popleft())
    except BrokenProcessPool as err:
        # A signal to the whole group ends the workers first: let our own handler have its say.
        time.sleep(_SIGNAL_GRACE_S)
        stop_if_asked()
        raise FeatcacheError(
            "A process that decodes images died. All acknowledged rows are kept. If memory is "
            "short, use fewer --n-workers; the same command goes on from there."
        ) from err
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _awaited(batch: Future[Batch]) -> Batch:
    """Wait for a batch, or for a wish to stop."""
    while wait([batch], timeout=_LOOKS_EVERY_S).not_done:
        stop_if_asked()
    stop_if_asked()
    return batch.result()


@dataclass(frozen=True, eq=False)
class _Decoder:
    """Decodes whole batches."""

    images: FileImages
    preprocess: Preprocess

    def decode(self, span: Span) -> Batch:
        """Decode one batch."""
        images = np.zeros((span.stop - span.start, *self.preprocess.out_size, 3), np.uint8)
        reasons = {}
        for row in range(span.start, span.stop):
            stop_if_asked()
            try:
                image = self.images.decode(row)
                images[row - span.start] = resize_image(image, self.preprocess)
            except UnreadableImageError as err:
                reasons[row - span.start] = str(err)
        return Batch(span, images, reasons)


_decoder_of_this_worker: _Decoder | None = None


def _begin_work(decoder: _Decoder, parent: int) -> None:
    """Take the decoder once, leave signals to the parent, and die when it dies.

    Ctrl-C and a closed terminal reach the whole group; a worker that died of it before the parent
    has stopped would look like a crash.
    """
    global _decoder_of_this_worker
    _decoder_of_this_worker = decoder
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # By SIGTERM a pool whose one worker was killed ends the others: ignored, it waits for ever.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        # Else the worker of a parent that was killed waits for work for ever.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _decode_in_worker(span: Span) -> Batch:
    assert _decoder_of_this_worker is not None, "the pool's initializer did not run"
    return _decoder_of_this_worker.decode(span)
