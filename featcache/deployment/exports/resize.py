"""Pillow's integer resizing of images of one size, as products that any graph can hold.

A product of bytes with 22-bit weights, added up, stays below 2^53: float64 holds it exactly, and
every runtime multiplies matrices of float64 fast. So the bytes are Pillow's, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featcache.core.preprocess import Preprocess
from featcache.images.pillow_resize import PRECISION_BITS, Axis, are_rows_first, plan_axis


class PillowResize(nn.Module):
    """Resizes and crops uint8 images of one size as Pillow does; (N, 3, H, W) to (N, 3, h, w).

    Attributes:
        in_size: (H, W).
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, preprocess: Preprocess, in_size: tuple[int, int]) -> None:
        """Tabulate the weights of both passes.

        Args:
            preprocess: Its mean and std are not used.
            in_size: (H, W) of the images.

        Raises:
            UsageError: If such images cannot be resized so.
        """
        super().__init__()
        self.in_size = in_size
        size, *kept = preprocess.geometry(in_size)
        axes = [
            plan_axis(
                "rows",
                n_in,
                n_out,
                kept=stretch,
                interpolation=preprocess.interpolation,
                device=torch.device("cpu"),
            )
            for n_in, n_out, stretch in zip(in_size, size, kept, strict=True)
        ]
        self._stretches = tuple(axis.source for axis in axes)
        self._has_taps = tuple(bool(axis.taps) for axis in axes)
        self._is_rows_first = are_rows_first(in_size, size)
        self.register_buffer("rows", _weights(axes[0]))
        self.register_buffer("columns", _weights(axes[1]).t().contiguous())

    def forward(self, images: Tensor) -> Tensor:
        """Resize (N, 3, H, W) of any type; what comes out is float64 of whole numbers in 0..255."""
        rows, columns = self._stretches
        pixels = images[:, :, rows, columns].to(torch.float64)
        for axis in (0, 1) if self._is_rows_first else (1, 0):
            if self._has_taps[axis]:
                summed = self.rows @ pixels if axis == 0 else pixels @ self.columns
                pixels = (summed * 2.0**-PRECISION_BITS + 0.5).floor().clamp(0, 255)
        return pixels


def _weights(axis: Axis) -> Tensor:
    """Write the taps of an axis as a matrix, (outputs, inputs) float64 of whole numbers."""
    n_in = axis.source.stop - axis.source.start
    n_out = len(axis.taps[0][0]) if axis.taps else 0
    weights = torch.zeros(n_out, n_in, dtype=torch.float64)
    for places, values in axis.taps:
        weights.scatter_add_(1, places.long()[:, None], values.double())
    return weights
