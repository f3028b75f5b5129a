"""Batches of uint8 images on a fixed grid, from memory or from decoding processes."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.datasets.splits import ArrayImages, FileImages, Split, UnreadableImageError
from featcache.errors import FeatcacheError
from featcache.pixels import resize_image
from featcache.runtime import is_worker_death
from featcache.specs import Preprocess

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
) -> Iterator[Batch]:
    """Yield the batches of `spans`, in order.

    Images in memory come at their own size; image files are decoded, resized and cropped in
    worker processes, which outlive neither the iterator nor this process.

    If one dies, torch raises a RuntimeError wherever that finds the main thread: see
    `worker_deaths_named`.
    """
    if isinstance(split.images, ArrayImages):
        for span in spans:
            yield Batch(span, split.images.pixels[span.start : span.stop])
        return
    decoder = _Decoder(split.images, spans, preprocess)
    if n_workers == 0:
        yield from (decoder[i] for i in range(len(spans)))
        return
    yield from _from_workers(decoder, n_workers)


@contextlib.contextmanager
def worker_deaths_named() -> Iterator[None]:
    """Turn torch's report of a decoding process that died into a FeatcacheError."""
    try:
        yield
    except RuntimeError as err:
        if not is_worker_death(err):
            raise
        raise FeatcacheError(
            f"A process that decodes images died: {str(err).rstrip('. ')}. All acknowledged rows "
            f"are kept. If memory is short, use fewer --n-workers; the same command goes on from "
            f"there."
        ) from err


def _from_workers(decoder: _Decoder, n_workers: int) -> Iterator[Batch]:
    from torch.utils.data import DataLoader

    # Forked workers start in milliseconds and only run PIL; elsewhere the platform's own way.
    method = "fork" if sys.platform == "linux" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more workers than cores may be asked for
        loader: Any = DataLoader(
            decoder,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=min(n_workers, len(decoder)),
            prefetch_factor=4,
            # Arrays go through pipes: tensors would need /dev/shm, which containers lack.
            collate_fn=_as_is,  # type: ignore[arg-type]
            worker_init_fn=_obey_the_parent,
            multiprocessing_context=multiprocessing.get_context(method),
        )
        batches = iter(loader)
    yield from batches


@dataclass(frozen=True, eq=False)
class _Decoder:
    """Decodes whole batches; the DataLoader's dataset."""

    images: FileImages
    spans: Sequence[Span]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, i: int) -> Batch:
        if i >= len(self.spans):
            raise IndexError(i)
        span = self.spans[i]
        shape = (span.stop - span.start, *self.preprocess.out_size, 3)
        images = np.zeros(shape, np.uint8)
        reasons = {}
        for row in range(span.start, span.stop):
            try:
                image = self.images.decode(row)
                images[row - span.start] = resize_image(image, self.preprocess)
            except UnreadableImageError as err:
                reasons[row - span.start] = str(err)
        return Batch(span, images, reasons)


def _as_is(batch: Batch) -> Batch:
    return batch


def _obey_the_parent(_: int) -> None:
    """Leave signals to the parent, which ends its workers itself, and die when it dies.

    Ctrl-C, a closed terminal and a job scheduler reach the whole group; a worker that died of it
    before the parent has stopped would look like a crash.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":
        # Else the worker of a parent that was killed waits for ever on its full pipe.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
