"""Heads on small random backbones, for the 64 images that a check wants: scikit-learn's digits."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import featcache
from featcache.config import HeadSpec, SolverSpec
from featcache.deployment.backbone import RebuiltBackbone, rebuild_backbone
from featcache.heads.head_file import save_head
from featcache.images.decode_batches import resize_image
from featcache.images.transform import BatchPreprocessor

N_IMAGES = 360  # the test split of the dataset


def head_on(folder: Path, backbone: str, *, image_size: int = 32, **training: Any) -> Path:
    """Extract 100 images a split, train a head, and give its run."""
    places = {"cache_dir": folder / "cache", "data_dir": folder / "data"}
    cache = featcache.extract(
        "digits", backbone=backbone, weights="random", image_size=image_size, limit=100, **places
    )
    training = {"hidden": (8,), "max_epochs": 2, "lr": 1e-2, **training}
    return featcache.train_head(cache.path, runs_dir=folder / "runs", **training).path


def treated(run: Path, features: str) -> Path:
    """Save the head of a run again, as a linear one on features that are treated so."""
    head = featcache.load_head(run)
    rng = np.random.default_rng(0)
    shape = (len(head.class_names), head.n_features)
    first = 0 if features == "raw" else 1
    arrays = {
        # Small: random backbones tell images apart by little, which a large head would magnify.
        f"{first}.weight": 0.02 * rng.standard_normal(shape).astype(np.float32),
        f"{first}.bias": rng.standard_normal(shape[0]).astype(np.float32),
    }
    if features == "standard":
        cache = featcache.open_cache(head.cache_path)
        rows = cache["train"].features
        arrays |= {"0.mean": rows.mean(0), "0.scale": rows.std(0) + np.float32(1e-3)}
    solver = SolverSpec(solver="logreg", features=features, C=(1.0,))
    spec = HeadSpec(hidden=())
    folder = run.with_name(f"{run.name}-{features}")
    folder.mkdir()
    save_head(folder, replace(head, solver=solver, spec=spec, arrays=arrays))
    return folder


def digits() -> npt.NDArray[np.uint8]:
    """The 360 test images, (N, 8, 8, 3)."""
    dataset = featcache.load_dataset("digits", data_dir="data")
    pixels: npt.NDArray[np.uint8] = dataset.splits["test"].images.pixels  # type: ignore[attr-defined]
    return pixels


def by_pillow(images: npt.NDArray[np.uint8], preprocess: Any) -> npt.NDArray[np.uint8]:
    """Resize and crop images one by one."""
    return np.stack([resize_image(Image.fromarray(image), preprocess) for image in images])


def probabilities(run: Path, prepared: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """What the library itself says, in fp32 on the CPU, of images that Pillow prepared."""
    head = featcache.load_head(run)
    backbone = rebuilt(run)
    prepare = BatchPreprocessor(
        backbone.preprocess.after_resize, prepared.shape[1:3], torch.device("cpu")
    )
    assert backbone.module is not None
    with torch.no_grad():
        logits = head.module()(backbone.module(prepare(torch.from_numpy(prepared))))
        found: npt.NDArray[np.float64] = torch.softmax(logits.double(), 1).numpy()
    return found


@functools.cache
def rebuilt(run: Path) -> RebuiltBackbone:
    """The backbone of a run, whose weights are random."""
    return rebuild_backbone(featcache.load_head(run))
