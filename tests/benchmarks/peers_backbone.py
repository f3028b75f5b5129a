"""Ways to run images through a frozen backbone."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import models, transforms

import featcache
from featcache.backbones.engines.engine import engine_of
from featcache.backbones.engines.trial import settle_compiled
from featcache.backbones.load import load_backbone
from featcache.backbones.runner import BackboneRunner
from featcache.core.arithmetic import arithmetic
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import silent
from featcache.extraction import opening
from featcache.images.splits import Dataset
from featcache.images.transform import BatchPreprocessor
from tests.benchmarks.allocator import freed_memory_kept
from tests.benchmarks.measure import Peer, Run

BATCH_SIZE = 64


class _Images(TorchDataset[Tensor]):
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


@contextlib.contextmanager
def peers(name: str, dataset: Dataset, *, precision: str = "fp32") -> Iterator[list[Peer]]:
    """List the ways to turn the images of a dataset's one split into features on the CPU.

    Models are built outside; each way runs once before it is timed. featcache's is the whole
    extraction with its store, without the start-up (digest of the dataset, weights, probe,
    compile). Its engine is what `--compile auto` settles for 60,000 images. In bf16 the competent
    user has autocast; the notebook's loop stays as it is. Loops over PIL do two batches of 64, for
    their rates do not depend on how many; each has a process of its own, as it would have, for what
    glibc keeps of freed memory changes its rate several times over.
    """
    [split] = dataset.splits.values()
    pixels = split.images.pixels
    n = len(pixels)
    few = pixels[: 2 * BATCH_SIZE]
    prepare = BatchPreprocessor(
        Preprocess.notebook(224), in_size=(32, 32), device=torch.device("cpu")
    )

    def ours(compile: str) -> tuple[float, Tensor]:
        # These images have no files.
        opening.load_dataset = lambda *_, **__: dataset  # type: ignore[attr-defined]
        with tempfile.TemporaryDirectory() as folder, freed_memory_kept():  # as the command line
            result = featcache.extract(
                "cifar10",
                backbone=name,
                weights="random",
                precision=precision,
                compile=compile,
                cache_dir=folder,
            )
            rows = torch.from_numpy(
                np.array(featcache.open_cache(result.path)[split.name].features)
            )
        return sum(result.seconds_by_phase.values()), rows

    runner, engine = settled(name, precision)
    forward = runner.forward

    def ceiling() -> tuple[float, Tensor]:
        started = time.perf_counter()
        with freed_memory_kept(), arithmetic(precision, "cpu"):
            resident = torch.from_numpy(pixels)
            parts = [forward(prepare(resident[i : i + 16])) for i in range(0, n, 16)]
        return time.perf_counter() - started, torch.cat(parts).float()

    def alone(way: str, batch_size: int = BATCH_SIZE, n_workers: int = 0) -> Run:
        process = processes.enter_context(
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        )
        asked = (name, way, few, batch_size, n_workers, precision)
        return lambda: process.submit(_there, *asked).result()

    with contextlib.ExitStack() as processes:
        yield [
            Peer("featcache", lambda: ours(engine), n),
            Peer("featcache, --compile never", lambda: ours("never"), n),
            Peer("its preprocessing and backbone on a resident batch, nothing else", ceiling, n),
            Peer("the notebook's loop", alone("notebook"), len(few)),
            Peer("a competent user's, batch 64", alone("competent"), len(few)),
            Peer("a competent user's, batch 16", alone("competent", 16), len(few)),
            Peer("a competent user's, batch 16, 2 workers", alone("competent", 16, 2), len(few)),
            Peer("thingsvision's method (rewritten)", alone("hooked"), len(few)),
        ]


def settled(name: str, precision: str) -> tuple[BackboneRunner, str]:
    """Build a runner of batches of 16, and what `--compile auto` settles on for 60,000 images."""
    backbone = load_backbone(name, weights="random").module
    assert backbone is not None
    runner = BackboneRunner(
        backbone,
        preprocess=Preprocess.notebook(224),
        device="cpu",
        precision=precision,
        batch_size=16,
    )
    with freed_memory_kept():
        compiler, why = settle_compiled(
            runner,
            image_shape=(32, 32, 3),
            n_rows=60_000,
            asked="auto",
            backbone=name,
            on_note=silent,
        )
    engine = "never" if compiler is None else engine_of(compiler)
    print(f"--compile auto settles on {engine} for {name} in {precision}: {why}", flush=True)
    return runner, engine


def _there(
    name: str, way: str, pixels: np.ndarray, batch_size: int, n_workers: int, precision: str
) -> tuple[float, Tensor]:
    """Run a loop over PIL in the process that is its own; the model is built once."""
    model = _model(name, is_laid_out=way == "competent")
    if way == "hooked":
        return _hooked(model, pixels)
    is_bf16 = way == "competent" and precision == "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        return _loop(model, pixels, batch_size, n_workers)


@functools.cache
def _model(name: str, *, is_laid_out: bool) -> nn.Module:
    backbone = load_backbone(name, weights="random").module
    assert backbone is not None
    model = whole(name, backbone.state_dict())
    return model.to(memory_format=torch.channels_last) if is_laid_out else model


def pil_images_per_s() -> float:
    """Time the notebook's transforms of one image, on one core."""
    one = _Images(np.zeros((1, 32, 32, 3), np.uint8))
    started = time.perf_counter()
    for _ in range(200):
        one[0]
    return 200 / (time.perf_counter() - started)


def whole(name: str, state: dict[str, Tensor]) -> nn.Module:
    """Build torchvision's model with its classifier replaced, as the notebook does."""
    model = models.get_model(name, weights=None)
    model.classifier = nn.Identity()
    model.load_state_dict(state)
    return model.eval()


def _loop(
    model: nn.Module, pixels: np.ndarray, batch_size: int, n_workers: int
) -> tuple[float, Tensor]:
    fork = multiprocessing.get_context("fork") if n_workers else None  # Linux's default
    loader = DataLoader(
        _Images(pixels), batch_size, num_workers=n_workers, multiprocessing_context=fork
    )
    is_laid_out = next(model.parameters()).is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_laid_out else torch.contiguous_format
    started = time.perf_counter()
    with torch.inference_mode():
        parts = [model(images.to(memory_format=layout)) for images in loader]
    return time.perf_counter() - started, torch.cat(parts).float()


def _hooked(model: nn.Module, pixels: np.ndarray) -> tuple[float, Tensor]:
    """A forward hook that clones, to the CPU, into a list; concatenated and saved at the end."""
    caught: dict[str, Tensor] = {}

    def hook(_: nn.Module, __: object, output: Tensor) -> None:
        caught["features"] = output.clone()

    handle = model.classifier.register_forward_hook(hook)
    loader = DataLoader(_Images(pixels), BATCH_SIZE)
    parts = []
    started = time.perf_counter()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for images in loader:
            model(images)
            parts.append(caught["features"].cpu().numpy())
        features = np.concatenate(parts)
        np.save(Path(folder) / "features.npy", features)
        seconds = time.perf_counter() - started
    handle.remove()
    return seconds, torch.from_numpy(features)
