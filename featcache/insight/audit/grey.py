"""Whether two images look alike: both grey, at 32 by 32 pixels, one perhaps a cut of the other.

What is compared is the detail of an image: its grey levels without the noise of single pixels and
without slow changes. Skies and seas are alike in those, and two photographs of ships would be one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SIDE = 32
# `python -m tests.benchmarks.auditing thresholds` measures both on planted copies.
LEAST_CORRELATION, MOST_DIFFERENCE = 0.9, 50.0
# Of handwritten digits, half of all images have another that correlates by 0.9. There a copy has to
# stand out: this much of the way from a usual image's best to 1. But 0.99 is enough of any images.
_STANDS_OUT, _ENOUGH = 0.15, 0.99
_USUAL_PERCENT = 25  # so that three quarters of the images may be there twice
# Images of one colour have no detail that could correlate. They are copies if their levels agree.
_FLAT_SPREAD, _FLAT_DIFFERENCE = 1.0, 2.0
_SIZES = (0.95, 0.9)  # of a cut, each at nine places
_FINE, _WIDE = 1, 5  # radii of means, in pixels, whose difference is detail
# At 8 by 8 pixels a cut of 5% still correlates; who does not, is not looked at more closely.
_COARSE, _LEAST_COARSE = 4, 0.6
_PAIRS_AT_A_TIME = 1 << 12

GreyArray = npt.NDArray[np.uint8]


def to_grey(pixels: GreyArray) -> GreyArray:
    """Take the luma of (B, 32, 32, 3) RGB images, as PIL does (ITU-R 601): (B, 32, 32)."""
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(luma).astype(np.uint8)


def compared(
    grey: GreyArray, pairs: npt.NDArray[np.int64], *, on_portion: Callable[[int, int], None]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compare pairs of images.

    Args:
        grey: (N, 32, 32).
        pairs: (P, 2), numbers of images.
        on_portion: Called with the pairs that are done, and P.

    Returns:
        (P,) Pearson correlations of their details, the highest of those of one image with cuts of
        the other, 0 of images that differ at the first look, and 1 of two images of one colour; and
        (P,) mean absolute differences of their grey levels.
    """
    correlations = np.zeros(len(pairs), np.float32)
    differences = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
        some = slice(start, min(start + _PAIRS_AT_A_TIME, len(pairs)))
        first, second = (torch.from_numpy(grey[pairs[some, i]]).float() for i in (0, 1))
        differences[some] = (first - second).abs().mean((1, 2)).numpy()
        coarse = torch.linalg.vecdot(_unit(_coarse(first)), _unit(_coarse(second)))
        close = (coarse >= _LEAST_COARSE).nonzero()[:, 0]
        if len(close):
            found = torch.maximum(
                _correlation(first[close], second[close]), _correlation(second[close], first[close])
            )
            correlations[start + close.numpy()] = found.clamp(-1, 1).numpy()
        are_flat = torch.maximum(first.std((1, 2)), second.std((1, 2))) <= _FLAT_SPREAD
        correlations[some][are_flat.numpy() & (differences[some] <= _FLAT_DIFFERENCE)] = 1
        on_portion(some.stop, len(pairs))
    return correlations, differences


def least_correlation(correlations: npt.NDArray[np.float32], pairs: npt.NDArray[np.int64]) -> float:
    """Tell how well two images of a set must correlate to be copies of one.

    Args:
        correlations: (P,), of pairs of images and their candidates.
        pairs: (P, 2).

    Returns:
        0.9 of photographs, and up to 0.99 of images that are much alike.
    """
    if not len(pairs):
        return LEAST_CORRELATION
    best = np.zeros(int(pairs.max()) + 1, np.float32)
    for side in (0, 1):
        np.maximum.at(best, pairs[:, side], correlations)
    usual = float(np.percentile(best[np.unique(pairs)], _USUAL_PERCENT))
    return float(np.clip(1 - _STANDS_OUT * (1 - usual), LEAST_CORRELATION, _ENOUGH))


def are_alike(
    correlations: npt.NDArray[np.float32],
    differences: npt.NDArray[np.float32],
    *,
    least: float = LEAST_CORRELATION,
) -> npt.NDArray[np.bool_]:
    """Tell which pairs are copies of one image, perhaps stored, resized, cropped or lit anew.

    Args:
        correlations: (P,).
        differences: (P,).
        least: The least correlation of copies.
    """
    return (correlations >= least) & (differences <= MOST_DIFFERENCE)


class _Cut(NamedTuple):
    """What makes the detail of a cut of an image: two means of rows, two of columns."""

    fine_rows: Tensor
    fine_columns: Tensor
    wide_rows: Tensor
    wide_columns: Tensor

    def detail(self, images: Tensor) -> Tensor:
        """Compute it for (B, 32, 32) images."""
        fine = self.fine_rows @ images @ self.fine_columns.T
        return fine - self.wide_rows @ images @ self.wide_columns.T


def _correlation(images: Tensor, others: Tensor) -> Tensor:
    """Correlate the cuts of (B, 32, 32) images with others, and take the highest: (B,)."""
    whole, *_ = _cuts()
    known = _unit(whole.detail(others))
    each = [torch.linalg.vecdot(_unit(cut.detail(images)), known) for cut in _cuts()]
    return torch.stack(each).amax(0)


@functools.cache
def _cuts() -> Sequence[_Cut]:
    """List the whole image, and cuts of it."""
    fine, wide = _mean_of(_FINE), _mean_of(_WIDE)
    cuts = [_Cut(fine, fine, wide, wide)]
    for size in _SIZES:
        axes = [_axis(place * (1 - size) * SIDE, size * SIDE) for place in (0, 0.5, 1)]
        cuts += [_Cut(fine @ a, fine @ b, wide @ a, wide @ b) for a in axes for b in axes]
    return cuts


def _axis(start: float, length: float) -> Tensor:
    """Make what enlarges a stretch of 32 pixels to all of them, by linear interpolation."""
    table = torch.zeros(SIDE, SIDE)
    for i in range(SIDE):
        at = min(max(start + (i + 0.5) * length / SIDE - 0.5, 0.0), SIDE - 1.0)
        left = min(int(at), SIDE - 2)
        table[i, left] += 1 - (at - left)
        table[i, left + 1] += at - left
    return table


def _mean_of(radius: int) -> Tensor:
    """Make what averages so many pixels to both sides; beyond an end the image is mirrored."""
    table = torch.zeros(SIDE, SIDE)
    for i in range(SIDE):
        for j in range(i - radius, i + radius + 1):
            mirrored = SIDE - 1 - abs(SIDE - 1 - abs(j))
            table[i, mirrored] += 1 / (2 * radius + 1)
    return table


def _coarse(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images[:, None], _COARSE)[:, 0]


def _unit(images: Tensor) -> Tensor:
    """Centre images and bring them to length 1; one of a single level is all zeros."""
    rows = images.flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    lengths: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / lengths.clamp(min=1e-3)
