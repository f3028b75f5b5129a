"""Images through one backbone to the probabilities of its heads, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from featcache.backbones.engines.memory_format import settle_memory_format
from featcache.backbones.engines.trial import settle_compiled
from featcache.backbones.in_flight import InFlight
from featcache.backbones.runner import BackboneRunner
from featcache.core.arithmetic import head_arithmetic
from featcache.core.device import pick_batch_size, pick_n_workers
from featcache.core.reporting import NoteCallback
from featcache.deployment.backbone import RebuiltBackbone, precision_on
from featcache.heads.answering import answering_module
from featcache.heads.trained_head import TrainedHead
from featcache.images.batches import ImageBatch, Span, after_loading, load_batches
from featcache.images.splits import Split
from featcache.store import Cache

_FEWEST_BATCHES = 16  # below, to look whether an engine pays takes longer than what it gains
NOT_FINITE = "its features are not finite"


@dataclass(frozen=True, eq=False)
class AnsweredBatch:
    """What heads say of a batch of images.

    Attributes:
        span: Its rows in the split.
        probabilities: Of each head, (n, K) float64; NaN where an image could not be read.
        reasons: Why not, by row within the batch.
    """

    span: Span
    probabilities: Sequence[npt.NDArray[np.float64]]
    reasons: Mapping[int, str]


class Pipeline:
    """A backbone on its device, with heads behind it.

    A batch is always of one size, padded where images are few: so an image has the same features
    alone and among others.
    """

    def __init__(
        self,
        backbone: RebuiltBackbone,
        heads: Sequence[TrainedHead],
        caches: Sequence[Cache | None],
        *,
        device: str,
        batch_size: int | None,
        n_workers: int | None,
        compile: str,
        on_note: NoteCallback,
    ) -> None:
        """Put the backbone on the device.

        Args:
            backbone: What made the features of the heads.
            heads: At least one.
            caches: For each the cache whose rows it asks; None if it has layers.
            device: "cpu" or "cuda:N".
            batch_size: Images in one forward pass; None chooses by free memory.
            n_workers: Processes that decode files; None chooses.
            compile: "auto", "never", or an engine.
            on_note: Told each choice.
        """
        self.backbone = backbone
        self.device = device
        self._asked_engine, self._is_settled = compile, compile == "never"
        self._on_note = on_note
        may_halve = batch_size is None
        self.n_workers = pick_n_workers(n_workers, device=device).value
        preprocess, precision = backbone.preprocess, precision_on(device, backbone.precision)
        if precision.value != backbone.precision:
            on_note(f"precision {precision.told}")
        if batch_size is None:  # as an extraction chooses, so that features are of its class
            nbytes = backbone.activation_nbytes
            batch_size = pick_batch_size(device, nbytes_per_image=nbytes).value
        self._runner = BackboneRunner(
            backbone.module or nn.Flatten(),
            preprocess=preprocess.after_resize,
            device=device,
            precision=precision.value,
            batch_size=batch_size,
        )
        self._shape = (*preprocess.out_size, 3)
        self._runner.probe(self._shape, may_halve=may_halve)
        if device != "cpu" and backbone.module is not None:
            settle_memory_format(self._runner, self._shape)
        self._n_classes = [len(head.class_names) for head in heads]
        with head_arithmetic(device):
            self._modules = [
                head.module().to(device)
                if cache is None
                else answering_module(head, cache, device=torch.device(device))
                for head, cache in zip(heads, caches, strict=True)
            ]

    @property
    def batch_size(self) -> int:
        """Images in one forward pass."""
        return self._runner.batch_size

    def answers(self, split: Split, *, n_workers: int) -> Generator[AnsweredBatch, None, None]:
        """Answer for the images of a split, in order.

        Args:
            split: The images; their labels have no part in it.
            n_workers: Processes that decode files.

        Raises:
            DeviceError: If the device fails or has no memory left.
        """
        self._runner.prepare_by(after_loading(split, self.backbone.preprocess))
        starts = range(0, len(split), self.batch_size)
        spans = [Span(start, min(start + self.batch_size, len(split))) for start in starts]
        batches = load_batches(
            split,
            spans,
            preprocess=self.backbone.preprocess,
            n_workers=n_workers,
            may_skip=True,
            on_note=self._on_note,
        )
        flying: deque[tuple[ImageBatch, InFlight | None]] = deque()
        with closing(batches):
            for batch in batches:
                flying.append((batch, self._launch(batch)))
                if len(flying) > self._runner.n_ahead:
                    yield self._answer(*flying.popleft())
        while flying:
            yield self._answer(*flying.popleft())

    def settle_engine(self, n_images: int) -> None:
        """Compile the backbone if that is asked for, or pays for so many images."""
        is_long = n_images >= _FEWEST_BATCHES * self.batch_size
        if self._is_settled or not (is_long or self._asked_engine != "auto"):
            return
        self._is_settled = True
        if self.backbone.module is None:
            return
        compiler = settle_compiled(
            self._runner,
            image_shape=self._shape,
            n_rows=n_images,
            asked=self._asked_engine,
            backbone=_name_of_trials(self.backbone),
            on_note=self._on_note,
        )
        how = "eager" if compiler.value is None else "compiled"
        self._on_note(f"backbone {how}: {compiler.why}")

    def _launch(self, batch: ImageBatch) -> InFlight | None:
        """Begin a batch, unless none of its images could be read."""
        if len(batch.reasons) == len(batch.images):
            return None
        return self._runner.launch(batch.images, blank=list(batch.reasons))

    def _answer(self, batch: ImageBatch, flight: InFlight | None) -> AnsweredBatch:
        if flight is None:
            shapes = [(len(batch.images), n) for n in self._n_classes]
            return AnsweredBatch(
                batch.span, [np.full(shape, np.nan) for shape in shapes], batch.reasons
            )
        features = flight.rows()
        if self.backbone.store_dtype == "float16":  # as a cache keeps them
            features = features.half().float()
        with head_arithmetic(self.device), torch.inference_mode():
            there = features.to(self.device)
            logits = [module(there).cpu().double() for module in self._modules]
            found = [one.softmax(1).numpy() for one in logits]
        reasons = dict(batch.reasons)
        for i in np.flatnonzero(~np.all([np.isfinite(p).all(1) for p in found], axis=0)).tolist():
            reasons.setdefault(i, NOT_FINITE)
        for probabilities in found:
            probabilities[list(reasons)] = np.nan
        return AnsweredBatch(batch.span, found, reasons)


def _name_of_trials(backbone: RebuiltBackbone) -> str:
    """Name what an engine is tried on as an extraction does, which may have tried it."""
    identity, layer = backbone.identity, backbone.named.options["layer"]
    return identity.backbone if layer is None else f"{identity.backbone} {layer} {identity['pool']}"
