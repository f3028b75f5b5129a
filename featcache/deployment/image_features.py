"""Images through one backbone to their features, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor, nn

from featcache.backbones.engines.memory_format import settle_memory_format
from featcache.backbones.engines.trial import settle_compiled
from featcache.backbones.in_flight import InFlight
from featcache.backbones.runner import BackboneRunner
from featcache.core.device import pick_batch_size, pick_n_workers
from featcache.core.reporting import NoteCallback
from featcache.deployment.backbone import RebuiltBackbone, precision_on
from featcache.images.batches import ImageBatch, Span, after_loading, load_batches
from featcache.images.splits import Split

_FEWEST_BATCHES = 16  # below, to look whether an engine pays takes longer than what it gains


@dataclass(frozen=True, eq=False)
class ComputedBatch:
    """Features of a batch of images, as a cache keeps them.

    Attributes:
        span: Its rows in the split.
        features: (n, D) float32, rounded to the type of the cache; None if no image could be read.
        reasons: Why an image could not be read, by row within the batch; its features mean nothing.
    """

    span: Span
    features: Tensor | None
    reasons: Mapping[int, str]


class ImageFeatures:
    """A backbone on its device.

    A batch is always of one size, padded where images are few: so an image has the same features
    alone and among others.

    Attributes:
        backbone: What made the features of a cache.
        device: "cpu" or "cuda:N".
        n_workers: Processes that decode files.
    """

    def __init__(
        self,
        backbone: RebuiltBackbone,
        *,
        device: str,
        batch_size: int | None,
        n_workers: int | None,
        compile: str,
        on_note: NoteCallback,
    ) -> None:
        """Put the backbone on the device.

        Args:
            backbone: What made the features of a cache.
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

    @property
    def batch_size(self) -> int:
        """Images in one forward pass."""
        return self._runner.batch_size

    def batches(self, split: Split, *, n_workers: int) -> Generator[ComputedBatch, None, None]:
        """Compute the features of the images of a split, in order.

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
                    yield self._landed(*flying.popleft())
        while flying:
            yield self._landed(*flying.popleft())

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

    def _landed(self, batch: ImageBatch, flight: InFlight | None) -> ComputedBatch:
        features = None if flight is None else flight.rows()
        if features is not None and self.backbone.store_dtype == "float16":
            features = features.half().float()
        return ComputedBatch(batch.span, features, batch.reasons)


def _name_of_trials(backbone: RebuiltBackbone) -> str:
    """Name what an engine is tried on as an extraction does, which may have tried it."""
    identity, layer = backbone.identity, backbone.named.options["layer"]
    return identity.backbone if layer is None else f"{identity.backbone} {layer} {identity['pool']}"
