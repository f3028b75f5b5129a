"""Small folders of noise images for the fault harnesses, and their extraction in-process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import featcache
from featcache.extraction.result import ExtractResult
from tests import paces

BACKBONE = "mobilenet_v3_small"


def make_images(folder: Path, *, n_train: int, n_test: int, side: int = 16) -> Path:
    """Write PNG images of noise in two classes; the same arguments give the same bytes."""
    rng = np.random.default_rng(0)
    for split, n_images in (("train", n_train), ("test", n_test)):
        for i in range(n_images):
            path = folder / split / ("cat", "dog")[i % 2] / f"{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)
    return folder


def extract(images: Path, cache_dir: Path, **options: Any) -> ExtractResult:
    """Extract with random weights at 32 px, or as `options` say."""
    asked: dict[str, Any] = {"backbone": BACKBONE, "image_size": 32, "n_workers": 0}
    asked |= {"cache_dir": cache_dir, "data_dir": cache_dir / "data", **options}
    if asked["backbone"] != "pixels":
        asked.setdefault("weights", "random")
    return featcache.extract(f"folder:{images}", **asked)


def small_blocks(**fields: Any) -> contextlib.AbstractContextManager[None]:
    """Make blocks of one batch inside, so that a small cache has several.

    They are acknowledged at once: a small extraction is over before the first half second is.
    """
    return paces.small_blocks(1, commit_s=0.005, **fields)
