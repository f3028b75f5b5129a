"""torchvision's own preprocessing of PIL images, the yardstick of ours."""

from collections.abc import Callable

from PIL import Image
from torch import Tensor
from torchvision import transforms

from featcache.core.preprocess import Preprocess


def reference_transform(preprocess: Preprocess) -> Callable[[Image.Image], Tensor]:
    """Build Resize, CenterCrop, ToTensor and Normalize: an RGB image to (3, h, w) float32."""
    size = preprocess.resize if isinstance(preprocess.resize, int) else list(preprocess.resize)
    mode = transforms.InterpolationMode(preprocess.interpolation)
    steps: list[Callable[..., object]] = [transforms.Resize(size, mode)]
    if preprocess.crop is not None:
        steps.append(transforms.CenterCrop(preprocess.crop))
    steps += [transforms.ToTensor(), transforms.Normalize(preprocess.mean, preprocess.std)]
    composed: Callable[[Image.Image], Tensor] = transforms.Compose(steps)
    return composed
