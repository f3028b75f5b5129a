"""Images through one backbone to the probabilities of its heads, batch by batch."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from featcache.core.arithmetic import head_arithmetic
from featcache.deployment.image_features import ComputedBatch, ImageFeatures
from featcache.heads.answering import answering_module
from featcache.heads.trained_head import TrainedHead
from featcache.images.batches import Span
from featcache.images.splits import Split
from featcache.store import Cache

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

    Attributes:
        features: The backbone.
    """

    def __init__(
        self,
        features: ImageFeatures,
        heads: Sequence[TrainedHead],
        caches: Sequence[Cache | None],
    ) -> None:
        """Put the heads on the device.

        Args:
            features: What made the features of the heads.
            heads: At least one.
            caches: For each the cache whose rows it asks; None if it has layers.
        """
        self.features = features
        device = features.device
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
        return self.features.batch_size

    @property
    def n_workers(self) -> int:
        """Processes that decode files."""
        return self.features.n_workers

    def settle_engine(self, n_images: int) -> None:
        """Compile the backbone if that is asked for, or pays for so many images."""
        self.features.settle_engine(n_images)

    def answers(self, split: Split, *, n_workers: int) -> Generator[AnsweredBatch, None, None]:
        """Answer for the images of a split, in order.

        Args:
            split: The images; their labels have no part in it.
            n_workers: Processes that decode files.

        Raises:
            DeviceError: If the device fails or has no memory left.
        """
        with closing(self.features.batches(split, n_workers=n_workers)) as batches:
            for batch in batches:
                yield self._answer(batch)

    def _answer(self, batch: ComputedBatch) -> AnsweredBatch:
        n_images = batch.span.stop - batch.span.start
        if batch.features is None:
            unknown = [np.full((n_images, n), np.nan) for n in self._n_classes]
            return AnsweredBatch(batch.span, unknown, batch.reasons)
        with head_arithmetic(self.features.device), torch.inference_mode():
            there = batch.features.to(self.features.device)
            logits = [module(there).cpu().double() for module in self._modules]
            found = [one.softmax(1).numpy() for one in logits]
        reasons = dict(batch.reasons)
        for i in np.flatnonzero(~np.all([np.isfinite(p).all(1) for p in found], axis=0)).tolist():
            reasons.setdefault(i, NOT_FINITE)
        for probabilities in found:
            probabilities[list(reasons)] = np.nan
        return AnsweredBatch(batch.span, found, reasons)
