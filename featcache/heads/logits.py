"""What a head answers, by blocks: (N, K) numbers of which only a part is ever there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from featcache.core.arithmetic import head_arithmetic
from featcache.features.batches import FeatureBatch
from featcache.heads.figures import measure


class Answers(Protocol):
    """What a head answers for N rows, by blocks."""

    def __call__(
        self, rows: slice = slice(None), classes: slice = slice(None)
    ) -> npt.NDArray[np.floating[Any]]:
        """Compute a block, (n, k); its softmax over all classes is the head's probability."""
        ...


class MeanOfViews:
    """The mean of what a head answers for several views of each row.

    Of probabilities it is their logarithm that comes out. The scores of a head that has none are
    averaged as they are.
    """

    def __init__(
        self, views: Sequence[Answers], *, blocks: Iterator[slice], has_probabilities: bool
    ) -> None:
        """Take the answers for each view, and the blocks that all rows are divided into."""
        self._views = views
        self._log_sums: list[npt.NDArray[np.float64]] = []
        if has_probabilities:
            parts = [[_log_sum(view(rows)) for view in views] for rows in blocks]
            self._log_sums = [np.concatenate(of_view) for of_view in zip(*parts, strict=True)]

    def __call__(
        self, rows: slice = slice(None), classes: slice = slice(None)
    ) -> npt.NDArray[np.float64]:
        """Compute a block, (n, k) float64."""
        blocks = [view(rows, classes).astype(np.float64) for view in self._views]
        if not self._log_sums:
            mean: npt.NDArray[np.float64] = np.mean(blocks, axis=0)
            return mean
        for block, log_sums in zip(blocks, self._log_sums, strict=True):
            block -= log_sums[rows, None]
        log_mean: npt.NDArray[np.float64] = np.logaddexp.reduce(blocks) - math.log(len(blocks))
        return log_mean


def _log_sum(block: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    log_sum: npt.NDArray[np.float64] = np.logaddexp.reduce(block.astype(np.float64), axis=1)
    return log_sum


class Logits:
    """Logits by blocks, from what is kept of a head's work."""

    def __init__(
        self,
        module: nn.Module,
        batches: Iterable[FeatureBatch],
        *,
        n_rows: int,
        n_classes: int,
        device: torch.device,
    ) -> None:
        """Run a head, which is on the device, over (features, labels) batches of N rows together.

        Of a wide last layer what enters it is kept, else what the head gives.
        """
        *body, last = module.children()
        self._last = None
        if isinstance(last, nn.Linear) and last.in_features < n_classes:
            self._last, module = last, nn.Sequential(*body)
            n_classes = last.in_features
        self._kept = torch.empty(n_rows, n_classes, device=device)
        self._n_kept = 0
        with head_arithmetic(str(device)):
            measure(batches, (module, self._keep))

    def _keep(self, outputs: Tensor, _: Tensor) -> None:
        stop = self._n_kept + len(outputs)
        self._kept[self._n_kept : stop] = outputs
        self._n_kept = stop

    def __call__(
        self, rows: slice = slice(None), classes: slice = slice(None)
    ) -> npt.NDArray[np.float32]:
        """Compute a block, (n, k) float32."""
        if self._last is None:
            block = self._kept[rows, classes]
        else:
            with head_arithmetic(str(self._kept.device)), torch.inference_mode():
                weight, bias = self._last.weight[classes], self._last.bias[classes]
                block = torch.nn.functional.linear(self._kept[rows], weight, bias)
        found: npt.NDArray[np.float32] = block.cpu().numpy()
        return found
