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
