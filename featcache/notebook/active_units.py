"""Which hidden units of a head are on, step by step: where two right trainings may part.

ReLU has a kink at 0. If a unit's input lies within rounding of 0 for one image, the unit can be on
in one right computation and off in another. That image's gradient then differs by a whole share of
its batch, and from that step on the two trainings differ by far more than rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ActiveUnits:
    """Records, at each step that trains a head, which of its hidden units are on."""

    def __init__(self, head: nn.Sequential) -> None:
        """Watch the ReLUs of a head."""
        kinks = [layer for layer in head if isinstance(layer, nn.ReLU)]
        self._per_step = len(kinks)
        self._seen: list[Tensor] = []
        for layer in kinks:
            layer.register_forward_hook(self._note)

    def _note(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if layer.training:
            self._seen.append(output.detach() > 0)  # (B, units) of this layer

    def first_difference(self, other: ActiveUnits) -> int | None:
        """Number the first step, from 1, at which a unit is on in one training only."""
        for i, (ours, theirs) in enumerate(zip(self._seen, other._seen, strict=True)):
            if not torch.equal(ours, theirs):
                return i // self._per_step + 1
        return None
