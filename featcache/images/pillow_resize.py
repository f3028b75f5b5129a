"""Pillow's 8-bit resampling in exact integer arithmetic, for whole batches on any device.

Formulas: Pillow 13's src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc,
ImagingResampleInner and the 8bpc passes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import PIL
import torch
from torch import Tensor

from featcache.errors import UsageError

# Weights are fixed-point numbers with 32 - 8 - 2 bits behind the point, as in Pillow.
PRECISION_BITS = 22
_HALF = 1 << (PRECISION_BITS - 1)
_PILLOW_MAJOR = int(PIL.__version__.partition(".")[0])


def _triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float) -> float:
    """Evaluate Keys' cubic convolution kernel with a = -0.5, in Pillow's order of operations."""
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}
"""By interpolation name: the filter, and its support in source pixels when enlarging."""


class Workspace:
    """Named int32 buffers that live on between calls.

    Measured on a CPU: the page faults of fresh memory cost more than all the arithmetic.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """Hand out the buffer of this name, contiguous and of this shape, with any content."""
        n = math.prod(shape)
        if name not in self._buffers or len(self._buffers[name]) < n:
            # A buffer that was born in inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                self._buffers[name] = torch.empty(n, dtype=torch.int32, device=self._device)
        return self._buffers[name][:n].view(*shape)


@dataclass(frozen=True, eq=False)
class Axis:
    """How positions along one axis of an image come from those of another size.

    Attributes:
        name: "rows" or "columns".
        source: The stretch of input positions that has any influence.
        taps: Per tap, for L output positions, the place within that stretch and the fixed-point
            weight: (L,) and (L, 1) int32 for rows; (L * 3,) int64 and int32 for columns, which
            are interleaved with channels. No taps: the stretch is the output.
        overshoots: Whether a result can leave 0..255 before it is clipped.
    """

    name: str
    source: slice
    taps: tuple[tuple[Tensor, Tensor], ...]
    overshoots: bool

    def resample(self, pixels: Tensor, workspace: Workspace) -> Tensor:
        """Resample the rows or the columns of a batch.

        Args:
            pixels: (B, H, W * 3) int32, where the axis has been cut to `source`.
            workspace: Holds the result, under this axis' name.

        Returns:
            (B, L, W * 3) or (B, H, L * 3) int32, in 0..255.
        """
        shape = list(pixels.shape)
        dim = 1 if self.name == "rows" else 2
        shape[dim] = len(self.taps[0][0])
        total = workspace.take(self.name, shape).fill_(_HALF)
        gathered = workspace.take("gathered", shape)
        for index, weight in self.taps:
            if dim == 1:
                torch.index_select(pixels, 1, index, out=gathered)
            else:  # 3 times as fast here as index_select, which copies element by element
                torch.gather(pixels, 2, index.expand(shape), out=gathered)
            total.addcmul_(gathered, weight)
        total >>= PRECISION_BITS
        return total.clamp_(0, 255) if self.overshoots else total


def plan_axis(
    name: str, n_in: int, n_out: int, *, kept: slice, interpolation: str, device: torch.device
) -> Axis:
    """Tabulate the resampling of one axis from `n_in` to `n_out` positions, both at least 1.

    Args:
        name: "rows" or "columns".
        n_in: Positions in the input.
        n_out: Positions in the whole output.
        kept: The stretch of the output that is wanted (a crop).
        interpolation: "bilinear" or "bicubic".
        device: Where the tables live.
    """
    if n_in == n_out:
        return Axis(name=name, source=kept, taps=(), overshoots=False)
    windows = [_window(n_in, n_out, i, interpolation) for i in range(kept.start, kept.stop)]
    start = min(first for first, _ in windows)
    stop = max(first + len(weights) for first, weights in windows)
    # Pillow adds up in 32 bits too. Largest here: bicubic, below 1.3 * 255 * 2**22.
    if any(255 * sum(map(abs, w)) + _HALF >= 2**31 for _, w in windows):
        raise UsageError(f"Images of {n_in} {name} cannot be resized to {n_out}.")
    taps = []
    for t in range(max(len(weights) for _, weights in windows)):
        # A window shorter than the longest repeats its last position with weight 0.
        places = [first - start + min(t, len(w) - 1) for first, w in windows]
        index = torch.tensor(places, device=device)
        weight = torch.tensor([w[t] if t < len(w) else 0 for _, w in windows], device=device)
        if name == "rows":
            taps.append((index.int(), weight.int().unsqueeze(1)))
        else:
            channels = torch.arange(3, device=device)
            interleaved = (index.unsqueeze(1) * 3 + channels).flatten()
            taps.append((interleaved, weight.int().repeat_interleave(3)))
    overshoots = any(_can_overshoot(weights) for _, weights in windows)
    return Axis(name=name, source=slice(start, stop), taps=tuple(taps), overshoots=overshoots)


def are_rows_first(in_size: tuple[int, int], out_size: tuple[int, int]) -> bool:
    """Say which pass Pillow runs first, since it rounds to bytes between the two.

    Before Pillow 13 always the columns; since then the rows, where the height shrinks by more than
    twice as many pixels as the width (python-pillow/Pillow pull request 9549).
    """
    fewer_rows, fewer_columns = in_size[0] - out_size[0], in_size[1] - out_size[1]
    return _PILLOW_MAJOR >= 13 and fewer_rows > max(0, 2 * fewer_columns)


def _window(n_in: int, n_out: int, i: int, interpolation: str) -> tuple[int, list[int]]:
    """Compute the first input position that output position `i` sees, and the weights from there.

    The arithmetic is Pillow's, operation for operation: a plain loop, because since Python 3.12
    sum() compensates rounding errors, which C does not.
    """
    kernel, support = _FILTERS[interpolation]
    scale = n_in / n_out
    widening = max(scale, 1.0)
    support *= widening
    center = (i + 0.5) * scale
    first = max(0, int(center - support + 0.5))
    stop = min(n_in, int(center + support + 0.5))
    inverse = 1.0 / widening
    values = [kernel((x - center + 0.5) * inverse) for x in range(first, stop)]
    total = 0.0
    for value in values:
        total += value
    if total != 0.0:
        values = [value / total for value in values]
    one = 1 << PRECISION_BITS
    return first, [int(math.copysign(0.5, value) + value * one) for value in values]


def _can_overshoot(weights: list[int]) -> bool:
    largest = 255 * sum(w for w in weights if w > 0) + _HALF
    smallest = 255 * sum(w for w in weights if w < 0) + _HALF
    return smallest < 0 or largest >> PRECISION_BITS > 255
