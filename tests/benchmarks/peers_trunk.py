"""Ways to run images through a frozen trunk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

from featcache.backbones import load_backbone
from featcache.features import BatchPreprocessor
from featcache.forward import TrunkRunner
from featcache.runtime import arithmetic, freed_memory_kept
from featcache.specs import Preprocess
from tests.benchmarks.measure import Peer

BATCH_SIZE = 64


class _Images(Dataset[Tensor]):
    """The notebook's dataset: PIL, Resize, ToTensor, Normalize for each image."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.transform = transforms.Compose(
            [
                transforms.Resize((224, 224)),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> Tensor:
        return self.transform(Image.fromarray(self.pixels[i]))


def peers(name: str, pixels: np.ndarray, *, n_workers: int) -> list[Peer]:
    """List the ways to turn (N, 32, 32, 3) uint8 images into features on the CPU in fp32."""
    trunk = load_backbone(name, weights="random").module
    assert trunk is not None
    state = trunk.state_dict()
    n = len(pixels)
    runner = TrunkRunner(
        trunk,
        preprocess=Preprocess.notebook(224),
        is_resized=False,
        device="cpu",
        precision="fp32",
        batch_size=16,
    )

    def ours() -> tuple[float, Tensor]:
        started = time.perf_counter()
        with freed_memory_kept():
            parts = [runner.features(pixels[i : i + 16]) for i in range(0, n, 16)]
        return time.perf_counter() - started, torch.from_numpy(np.concatenate(parts))

    prepare = BatchPreprocessor(
        Preprocess.notebook(224), in_size=(32, 32), device=torch.device("cpu")
    )

    def ceiling() -> tuple[float, Tensor]:
        started = time.perf_counter()
        with freed_memory_kept(), arithmetic("fp32", "cpu"):
            resident = torch.from_numpy(pixels)
            parts = [trunk(prepare(resident[i : i + 16])) for i in range(0, n, 16)]
        return time.perf_counter() - started, torch.cat(parts)

    return [
        Peer("featcache", ours, n),
        Peer("its preprocessing and trunk on a resident batch, nothing else", ceiling, n),
        Peer("the notebook's loop", lambda: _loop(name, state, pixels, n_workers, eager), n),
        Peer("a competent user's", lambda: _loop(name, state, pixels, n_workers, channels_last), n),
        Peer("thingsvision's method", lambda: _hooked(name, state, pixels, n_workers), n),
    ]


def pil_images_per_s() -> float:
    """Time the notebook's transforms of one image, on one core."""
    one = _Images(np.zeros((1, 32, 32, 3), np.uint8))
    started = time.perf_counter()
    for _ in range(200):
        one[0]
    return 200 / (time.perf_counter() - started)


def eager(model: nn.Module) -> nn.Module:
    """Leave a model as it comes."""
    return model


def channels_last(model: nn.Module) -> nn.Module:
    """Lay a model out as CPUs and tensor cores want it."""
    return model.to(memory_format=torch.channels_last)


def whole(name: str, state: dict[str, Tensor]) -> nn.Module:
    """Build torchvision's model with its classifier replaced, as the notebook does."""
    model = models.get_model(name, weights=None)
    model.classifier = nn.Identity()
    model.load_state_dict(state)
    return model.eval()


def _loop(
    name: str,
    state: dict[str, Tensor],
    pixels: np.ndarray,
    n_workers: int,
    layout: Callable[[nn.Module], nn.Module],
) -> tuple[float, Tensor]:
    model = layout(whole(name, state))
    loader = DataLoader(_Images(pixels), BATCH_SIZE, num_workers=n_workers)
    parts = []
    started = time.perf_counter()
    with torch.inference_mode():
        for images in loader:
            if layout is channels_last:
                images = images.to(memory_format=torch.channels_last)
            parts.append(model(images))
    return time.perf_counter() - started, torch.cat(parts)


def _hooked(
    name: str, state: dict[str, Tensor], pixels: np.ndarray, n_workers: int
) -> tuple[float, Tensor]:
    """A forward hook that clones, to the CPU, into a list; concatenated and saved at the end."""
    model = whole(name, state)
    caught: dict[str, Tensor] = {}

    def hook(_: nn.Module, __: object, output: Tensor) -> None:
        caught["features"] = output.clone()

    model.classifier.register_forward_hook(hook)
    loader = DataLoader(_Images(pixels), BATCH_SIZE, num_workers=n_workers)
    parts = []
    started = time.perf_counter()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for images in loader:
            model(images)
            parts.append(caught["features"].cpu().numpy())
        features = np.concatenate(parts)
        np.save(Path(folder) / "features.npy", features)
        seconds = time.perf_counter() - started
    return seconds, torch.from_numpy(features)
