"""What is exported: one module from uint8 images to probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featcache.core.preprocess import Preprocess
from featcache.deployment.exports.resize import PillowResize


class Network(nn.Module):
    """Preprocessing, backbone, head and softmax as one module.

    Attributes:
        in_size: (H, W) of the images that it takes.
        resize: Pillow's resizing; None where the images come resized and cropped.
        backbone: (N, 3, h, w) -> (N, D).
        head: (N, D) -> (N, K) logits; the treatment of features and the temperature are in it;
            standardising is part of its first linear layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        preprocess: Preprocess,
        *,
        in_size: tuple[int, int] | None = None,
    ) -> None:
        """Put the parts together; they are in evaluation mode, on the CPU, in float32.

        Args:
            backbone: (N, 3, h, w) float32 -> (N, D).
            head: (N, D) -> (N, K) logits.
            preprocess: What makes the backbone's input of an image.
            in_size: (H, W) of images that it resizes itself; None takes them resized and cropped.
        """
        super().__init__()
        self.resize = None if in_size is None else PillowResize(preprocess, in_size)
        self.in_size = preprocess.out_size if in_size is None else in_size
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1))
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Compute the probabilities, (N, K) float32, of (N, H, W, 3) uint8 images.

        Bytes become numbers by the operations of ToTensor and Normalize, in their order.
        """
        return torch.softmax(self.logits(images), dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """Compute (N, K) logits of (N, H, W, 3) uint8 images."""
        rows: Tensor = self.head(self.backbone(self.inputs(images)))
        return rows

    def inputs(self, images: Tensor) -> Tensor:
        """Compute the backbone's input, (N, 3, h, w) float32, of (N, H, W, 3) uint8 images."""
        pixels = images.permute(0, 3, 1, 2)
        if self.resize is not None:
            pixels = self.resize(pixels)
        return (pixels.to(torch.float32) / 255 - self.mean) / self.std
