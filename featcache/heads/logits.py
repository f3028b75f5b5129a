"""What a head answers, by blocks: (N, K) numbers of which only a part is ever there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from featcache.core.arithmetic import head_arithmetic
from featcache.features.batches import FeatureBatch
from featcache.heads.figures import measure


class Logits:
    """Logits by blocks, from what is kept of a head's work."""

    def __init__(
        self, module: nn.Sequential, batches: Iterable[FeatureBatch], *, n_rows: int
    ) -> None:
        """Run a head over (features, labels) batches of N rows together."""
        *body, last = module.children()
        assert isinstance(last, nn.Linear), "a head ends so"
        self._weight, self._bias = last.weight, last.bias
        n_out, n_in = last.weight.shape
        self._is_before_last = n_in < n_out
        first = nn.Sequential(*body) if self._is_before_last else module
        self._kept = last.weight.new_empty(n_rows, min(n_in, n_out))
        self._n_kept = 0
        with head_arithmetic(str(self._kept.device)):
            measure(batches, (first, self._keep))

    def _keep(self, outputs: Tensor, _: Tensor) -> None:
        stop = self._n_kept + len(outputs)
        self._kept[self._n_kept : stop] = outputs
        self._n_kept = stop

    def __call__(
        self, rows: slice = slice(None), classes: slice = slice(None)
    ) -> npt.NDArray[np.float32]:
        """Compute a block, (n, k) float32."""
        if not self._is_before_last:
            block = self._kept[rows, classes]
        else:
            with head_arithmetic(str(self._kept.device)), torch.inference_mode():
                weight, bias = self._weight[classes], self._bias[classes]
                block = torch.nn.functional.linear(self._kept[rows], weight, bias)
        found: npt.NDArray[np.float32] = block.cpu().numpy()
        return found
