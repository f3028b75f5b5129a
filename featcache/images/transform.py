"""Batches of uint8 images to a backbone's input, bit-equal to PIL + ToTensor + Normalize.

This is the last step before a backbone, on its device. Image files come here resized and cropped
(images/decode_batches.py), so that only their bytes are left to be normalised.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from featcache.core.preprocess import Preprocess
from featcache.errors import UsageError
from featcache.images.pillow_resize import Workspace, are_rows_first, plan_axis

# Values per chunk, so that on a CPU the int32 temporaries stay in its cache, and on a GPU they
# stay far below what the backbone itself needs (64 MiB each).
_CHUNK_VALUES_CPU = 1 << 20
_CHUNK_VALUES_GPU = 1 << 24


def normalise_table(preprocess: Preprocess) -> Tensor:
    """Compute what ToTensor and Normalize make of each byte, by their own operations on the CPU.

    Returns:
        (256, 3) float32: value by channel.
    """
    from torchvision.transforms.functional import normalize

    scaled = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255)
    table: Tensor = normalize(scaled.expand(3, 1, 256), preprocess.mean, preprocess.std)
    return table[:, 0].t().contiguous()


class BatchPreprocessor:
    """Preprocesses batches of images of one size.

    The result is bit-equal to torchvision's transforms of each image as a PIL image.

    Holds its tables and buffers on one device. Not for use by two threads at a time.

    Example:
        >>> prepare = BatchPreprocessor(Preprocess.notebook(224), (32, 32), torch.device("cpu"))
        >>> prepare(torch.zeros(16, 32, 32, 3, dtype=torch.uint8)).shape
        torch.Size([16, 3, 224, 224])
    """

    def __init__(
        self, preprocess: Preprocess, in_size: tuple[int, int], device: torch.device
    ) -> None:
        """Tabulate the resampling and the normalisation.

        Args:
            preprocess: What to do.
            in_size: (height, width) of the images.
            device: Where the images are and the result will be.

        Raises:
            UsageError: If the preprocessing cannot be carried out.
        """
        (height, width), rows, columns = preprocess.geometry(in_size)
        name = preprocess.interpolation
        self.device = device
        self.in_size = in_size
        self.out_size = preprocess.out_size
        axes = (
            plan_axis("rows", in_size[0], height, kept=rows, interpolation=name, device=device),
            plan_axis(
                "columns", in_size[1], width, kept=columns, interpolation=name, device=device
            ),
        )
        self._sources = [axis.source for axis in axes]
        in_order = axes if are_rows_first(in_size, (height, width)) else axes[::-1]
        self._passes = [axis for axis in in_order if axis.taps]
        self._n_values = 3 * math.prod(
            max(source.stop - source.start, n_out)
            for source, n_out in zip(self._sources, self.out_size, strict=True)
        )
        self._workspace = Workspace(device)
        self._table = normalise_table(preprocess).to(device)
        n_columns = self.out_size[1]
        self._minus_mean = -torch.tensor(preprocess.mean, device=device).repeat(n_columns)
        self._std = torch.tensor(preprocess.std, device=device).repeat(n_columns)
        self._white = torch.full_like(self._std, 255)

    def __call__(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise a batch.

        Args:
            images: (B, H, W, 3) uint8 on the device.

        Returns:
            (B, 3, h, w) float32 in channels_last memory format.

        Raises:
            UsageError: If the images have another type or size.
        """
        height, width = self.out_size
        expected = (*images.shape[:1], *self.in_size, 3)
        if tuple(images.shape) != expected or images.dtype != torch.uint8:
            raise UsageError(
                f"`images` is {tuple(images.shape)} {images.dtype}; expected {expected} uint8."
            )
        out = torch.empty((len(images), height, width, 3), device=self.device)
        targets = out.view(len(images), height, width * 3)
        limit = _CHUNK_VALUES_CPU if self.device.type == "cpu" else _CHUNK_VALUES_GPU
        chunk = max(1, limit // self._n_values)
        for part, target in zip(images.split(chunk), targets.split(chunk), strict=True):
            pixels = self._resize(part)
            if self.device.type == "cpu":
                self._normalise(pixels, target)
            else:
                _look_up(pixels, self._table, target)
        return out.permute(0, 3, 1, 2)

    def _resize(self, images: Tensor) -> Tensor:
        """Turn (B, H, W, 3) uint8 into (B, h, w * 3) integers."""
        rows, columns = self._sources
        pixels = images[:, rows, columns].flatten(2)
        if not self._passes:
            return pixels
        pixels = self._workspace.take("pixels", pixels.shape).copy_(pixels)
        for axis in self._passes:
            pixels = axis.resample(pixels, self._workspace)
        return pixels

    def _normalise(self, pixels: Tensor, out: Tensor) -> None:
        """Do to (B, h, w * 3) integers what ToTensor and Normalize do, rounding by rounding."""
        out.copy_(pixels)
        torch.addcdiv(self._minus_mean, out, self._white, out=out)
        out.div_(self._std)


def _look_up(pixels: Tensor, table: Tensor, out: Tensor) -> None:
    """Normalise (B, h, w * 3) integers by table, for devices that divide otherwise than a CPU.

    On a CPU this takes three times as long as the arithmetic itself.
    """
    channels = torch.arange(3, dtype=torch.int32, device=pixels.device)
    index = torch.add(channels, pixels.to(torch.int32).unflatten(2, (-1, 3)), alpha=3)
    torch.index_select(table.flatten(), 0, index.flatten(), out=out.view(-1))
