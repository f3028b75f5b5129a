"""Photographs of a kind, smooth images of which copies can be made; and caches of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import featcache
from featcache.extraction.result import ExtractResult


def save_photograph(path: Path, seed: int, *, side: int = 48) -> None:
    """Write an image with light and dark places, which differ from seed to seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path, "png")


def extracted(folder: Path, tmp_path: Path, **options: object) -> ExtractResult:
    """The images themselves, at 16 px, as a cache."""
    options.setdefault("cache_dir", tmp_path / "cache")
    return featcache.extract(
        f"folder:{folder}", backbone="pixels", image_size=16, n_workers=0, **options
    )


def copied(root: Path, name: str, copy: str) -> None:
    (root / copy).parent.mkdir(parents=True, exist_ok=True)
    (root / copy).write_bytes((root / name).read_bytes())


def cache_of_photographs(folder: Path, n: int) -> Path:
    """Extract so many photographs without labels, and a copy of the fourth."""
    for i in range(n):
        save_photograph(folder / "photos" / f"{i}.png", i)
    copied(folder / "photos", "3.png", "copy.png")
    return featcache.extract(
        f"images:{folder / 'photos'}",
        backbone="pixels",
        image_size=16,
        n_workers=0,
        cache_dir=folder,
    ).path
