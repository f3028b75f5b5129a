"""How fast this machine is, measured for a second or two: its backbone, and a core that decodes."""

from __future__ import annotations

import io
import time
from typing import NamedTuple

import numpy as np
from PIL import Image

from featcache.backbones.families import family_of
from featcache.config import ExtractSpec
from featcache.config.scale_specs import ForecastSpec
from featcache.core.backbone_kinds import is_own
from featcache.core.backbone_names import RANDOM
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback
from featcache.core.usable_cores import usable_cores
from featcache.extraction.pace import current_pace
from featcache.images.checked_images import CheckedImages
from featcache.images.decode_batches import Decoder, Portion, Span, resize_image
from featcache.images.splits import Dataset, UnreadableImageError

_MEASURED_S = 1.5
_N_SAMPLED = 64
_USUAL_SIZE = (500, 375)  # of an image of ImageNet, whose files have 110 kB


class Decoding(NamedTuple):
    """What a core decodes.

    Attributes:
        images_per_s: Files that one core reads, decodes and resizes a second.
        nbytes: Of a file, on average.
    """

    images_per_s: float
    nbytes: int


class Machine(NamedTuple):
    """What is known of one machine.

    Attributes:
        device: Where the backbone runs; "cpu" where none does.
        batch_size: Images of a batch.
        cores: Cores of this machine.
        images_per_s: Images that the device computes; None where no network runs.
        decoding: What a core decodes; None where no file is decoded.
    """

    device: str
    batch_size: int
    cores: int
    images_per_s: float | None
    decoding: Decoding | None


def rates_of_machine(
    spec: ExtractSpec,
    asked: ForecastSpec,
    dataset: Dataset | None,
    preprocess: Preprocess,
    nbytes_per_image: int,
    note: NoteCallback,
) -> Machine:
    """Take the rates that are given, and measure the others."""
    device, batch_size, rate = "cpu", current_pace().pixels_batch_size, asked.images_per_s
    if family_of(spec.backbone).runs_network:
        from featcache.core.device import pick_batch_size, pick_device  # it imports torch

        device = pick_device(spec.device).value
        chosen = pick_batch_size(device, nbytes_per_image=nbytes_per_image).value
        batch_size = spec.batch_size or chosen
        if rate is None:
            note(f"measuring {spec.backbone} on {device} for seconds, with random weights")
            rate = measured_backbone(spec, preprocess, batch_size)
    are_arrays = dataset is not None and dataset.is_in_memory
    decoding = None
    if not are_arrays:
        if asked.decoded_per_s is None or asked.image_nbytes is None:
            note("measuring how fast one core decodes")
            decoding = measured_decoding(dataset, preprocess)
        found = decoding or Decoding(1.0, 1)
        decoding = Decoding(
            asked.decoded_per_s or found.images_per_s, asked.image_nbytes or found.nbytes
        )
    return Machine(device, batch_size, usable_cores().value, rate, decoding)


def measured_backbone(spec: ExtractSpec, preprocess: Preprocess, batch_size: int) -> float:
    """Run a backbone eagerly with random weights; give its images a second on one device."""
    # They import torch, which takes seconds.
    from featcache.backbones.load import load_backbone
    from featcache.backbones.runner import BackboneRunner
    from featcache.core.device import pick_device, pick_precision
    from featcache.core.plain_torch import plain_torch

    device = pick_device(spec.device).value
    with plain_torch():
        backbone = load_backbone(
            spec.backbone,
            weights=spec.weights if is_own(spec.backbone) else RANDOM,
            layer=spec.layer,
            pool=spec.pool,
            image_size=spec.image_size or family_of(spec.backbone).usual_size(spec.backbone),
        )
        assert backbone.module is not None, "it runs a network"
        runner = BackboneRunner(
            backbone.module,
            preprocess=preprocess.after_resize,
            device=device,
            precision=pick_precision(spec.precision, device).value,
            batch_size=batch_size,
        )
        batch_size = runner.probe((*preprocess.out_size, 3), may_halve=spec.batch_size is None)
        images = np.zeros((batch_size, *preprocess.out_size, 3), np.uint8)
        started, n_batches = time.perf_counter(), 0
        while not n_batches or time.perf_counter() - started < _MEASURED_S:
            runner.features(images)
            n_batches += 1
        return n_batches * batch_size / (time.perf_counter() - started)


def measured_decoding(dataset: Dataset | None, preprocess: Preprocess) -> Decoding | None:
    """Decode some images of a dataset, evenly spaced, or a usual one; None where none is decoded.

    Args:
        dataset: None takes a photo-like JPEG of 500x375.
        preprocess: How they are resized.
    """
    if dataset is None:
        return _usual(preprocess)
    images = next(iter(dataset.splits.values())).images
    if not isinstance(images, CheckedImages):
        return None
    n = min(_N_SAMPLED, len(images))
    sample = images.take(np.arange(n, dtype=np.int64) * len(images) // n)
    decoder = Decoder(sample, preprocess, may_skip=True)
    started, nbytes, n_done = time.perf_counter(), 0, 0
    while n_done < n and time.perf_counter() - started < _MEASURED_S:
        for _ in decoder.batches(Portion(Span(n_done, n_done + 1))):
            pass
        n_done += 1
    per_s = n_done / (time.perf_counter() - started)
    for row in range(n_done):
        try:
            nbytes += len(sample.read(row))
        except (OSError, UnreadableImageError):  # it becomes an invalid row
            continue
    return Decoding(per_s, max(1, nbytes // n_done))


def _usual(preprocess: Preprocess) -> Decoding:
    """Decode a smooth picture with some noise, as large as one of ImageNet."""
    width, height = _USUAL_SIZE
    rows, columns = np.indices((height, width))
    noise = np.random.default_rng(0).integers(0, 48, (height, width, 3))
    smooth = np.stack([rows * 200 // height, columns * 200 // width, (rows + columns) % 200], -1)
    file = io.BytesIO()
    Image.fromarray((smooth + noise).astype(np.uint8)).save(file, format="jpeg", quality=90)
    started, n_done = time.perf_counter(), 0
    while not n_done or time.perf_counter() - started < _MEASURED_S / 3:
        resize_image(Image.open(io.BytesIO(file.getvalue())).convert("RGB"), preprocess)
        n_done += 1
    return Decoding(n_done / (time.perf_counter() - started), len(file.getvalue()))
